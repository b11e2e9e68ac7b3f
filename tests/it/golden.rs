//! A report of every kind of section, as the four files it becomes, byte for byte. `PHIVAULT_TEST_WRITE=1` writes them anew: look at
//! them before they are committed.

use std::path::Path;

use phivault::domain::document::{Cell, Chart, Document, Section};
use phivault::domain::time::Timestamp;
use phivault::report::{self, Format};

fn document() -> Document {
    let time = |text: &str| Timestamp::parse(text).unwrap();
    let rows = (0..40).map(|n| {
        vec![
            Cell::Time(time(&format!("2026-11-{:02}T08:{:02}:00Z", n % 28 + 1, n))),
            Cell::text(["dr_smith", "Ärztin Müller", "Νοσοκόμα", "=1+1", "<b>&\"'"][n % 5]),
            if n % 3 == 0 { Cell::None } else { Cell::text(format!("MRN-{}", 1_000 + n)) },
            Cell::Count(n as u64 * 37),
            Cell::Decimal(format!("{}.5", n)),
        ]
    });
    let week =
        (0..7).map(|day| (0..24).map(|hour| u64::from((8..18).contains(&hour)) * (day + hour)).collect()).collect();
    let days = (1..=28).map(|day| (format!("2026-11-{day:02}"), day * 7 % 31)).collect();
    let reasons = vec![("TREAT".to_owned(), 812), ("HPAYMT".to_owned(), 90), ("BTG".to_owned(), 3)];
    Document {
        report: "access".into(),
        title: "Access report of dr_smith".into(),
        made_at: time("2026-11-28T09:30:00.123456Z"),
        head: vec![
            ("About".into(), "user dr_smith".into()),
            ("Period".into(), "2026-11-01 00:00:00Z to 2026-12-01 00:00:00Z".into()),
            ("Checkpoint".into(), "ledger.example/1\n40\nAAAA=\n\n— ledger.example/1 BBBB=".into()),
        ],
        sections: vec![
            Section::text("In short", vec!["One sentence.".into(), "Another, with — a dash.".into()]),
            Section::chart("By reason", Chart::Bars { counts: reasons }),
            Section::chart("Over time", Chart::Columns { counts: days }),
            Section::chart("By weekday and hour", Chart::Week { counts: week }),
            Section::table("Entries", &["when", "who", "patient", "entries", "share"], rows.collect()),
            Section::table("Nothing", &["what"], Vec::new()),
        ],
    }
}

#[test]
fn the_four_files_of_a_report_are_byte_for_byte_what_they_were() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/report");
    for format in Format::ALL {
        let path = folder.join(format!("access.{}", format.name()));
        let made = report::render(&document(), format).unwrap();
        if std::env::var("PHIVAULT_TEST_WRITE").is_ok() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read(&path).unwrap();
        assert!(made == kept, "{} differs; PHIVAULT_TEST_WRITE=1 writes it anew", path.display());
    }
}
