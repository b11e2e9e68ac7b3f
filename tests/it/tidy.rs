//! Keeps the rooms apart and the source tidy: each finding names file, line, rule and reason.

use std::{fs, path::PathBuf};

/// room | rooms it may use | words it may not say | why. `main.rs` and `lib.rs` may use anything.
const ROOMS: &str = "
domain    | | tokio rusqlite actix std::fs std::env SystemTime::now Utc::now | truth needs no I/O and no clock
crypto    | domain | tokio rusqlite actix std::fs std::env SystemTime::now Utc::now | bytes in, bytes out: repeatable
ledger    | crypto | tokio rusqlite actix std::fs std::env SystemTime::now Utc::now | proofs need no meaning and no disk
store     | domain ledger crypto | actix | it rests sealed bytes and knows no caller
vault     | domain crypto ledger store keyfile | actix rusqlite clap | one guarded door, whoever knocks
report    | domain | tokio rusqlite actix std::fs std::env SystemTime::now Utc::now | the same figures give the same bytes
http      | vault domain config report | rusqlite | it translates requests; the vault decides
clinic    | | | a made-up hospital knows only what a customer knows
witness   | vault domain ledger keyfile crypto | rusqlite clap | it carries checkpoints and knows no entry
cli       | vault domain config keyfile http clinic ledger report telemetry witness | rusqlite | it translates; the vault decides
config    | domain vault | | it reads settings into the types they set
keyfile   | crypto ledger domain | | keys rest outside the database, where no store reaches
telemetry | config | | diagnostics never meet an entry";

/// words, `;` between | searched in | rooms where they are right | why. Shipped code is code without tests.
const WORDS: &str = "
.unwrap() | shipped | | unwrap: input never ends the process; return an error, or prove it with expect
println!;print!;eprintln!;eprint! | code | cli main | print: only the command line speaks to a terminal
todo!;dbg!;unimplemented! | code | | unfinished: what is checked in is finished
SELECT ;PRAGMA ;INSERT INTO;DELETE FROM;CREATE TABLE | strings | store | sql: it stays behind the Store trait";

/// file | contents after the first line, `~` for a new line | the rules it breaks.
const CASES: &str = r##"
http/a.rs | use crate::store::Store; | room
http/a.rs | use crate::{~ domain::{store, Id},~ crypto::{self, Key},~ ledger,~}; | room room
http/a.rs | use crate::*; fn f() { g(crate::ledger::root()) } | room room
http/a.rs | use super::super::store; | room
http/mod.rs | use super::{store, vault}; | room
annex.rs | | room
crypto/a.rs | use std::{fmt, env::var}; fn f() { std::fs::read(A); chrono::Utc::now(); } | room room room
store.rs | use actix_web::web; | room
http/types.rs | | vague-name
http/a.rs | #[cfg(test)]~mod tests { }~fn f() { g().unwrap().expect(~"just works") } | expect unwrap
lib.rs | fn f() { println!(); print!(); eprintln!("{}", '"'); eprint!() } | print print print print
cli.rs | fn f() { println!(); todo!(); dbg!(); unimplemented!() } | unfinished unfinished unfinished
vault/a.rs | f(r#""; SELECT 1"#, "~PRAGMA a; INSERT INTO b; DELETE FROM b; CREATE TABLE c"); | sql sql sql sql sql
http/a.rs | use crate::{domain::store, http::ledger}; use super::store; |
http/a.rs | #[cfg(test)]~mod tests { fn f() { g('}', "\\}").unwrap() } } fn f() { g().expect("it is so") } |
cli/a.rs | fn f() { println!("a \" todo!() {}", '\'') } // .unwrap() |
domain/a.rs | /* tokio */ const A: &str = "std::fs"; struct Myactix<'a>(&'a u8); // Utc::now |"##;

#[test]
fn the_source_is_tidy() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");
    let (mut paths, mut read, mut found) = (vec![PathBuf::from(root)], 0, String::new());
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            let items = fs::read_dir(&path).expect("a source folder is readable");
            paths.extend(items.map(|item| item.expect("a folder can be listed").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).expect("a source file is readable");
            let file = path.to_string_lossy().replace(root, "");
            for (line, why) in check(&file, &source) {
                found += &format!("\nsrc/{file}:{line}: {why}");
            }
            read += 1;
        }
    }
    assert!(read > 1, "the source was not found in {root}");
    assert!(found.is_empty(), "the source is not tidy:{found}");
}

#[test]
fn each_rule_finds_what_breaks_it_and_nothing_else() {
    let expect = |file: &str, source: &str, rules: &str| {
        let found = check(file, source);
        let broken = found.iter().filter_map(|(_, why)| why.split(':').next());
        assert_eq!(broken.collect::<Vec<_>>().join(" "), rules, "{file}: {source}");
    };
    for [file, body, rules] in CASES.lines().skip(1).map(cells) {
        let source = format!("//! Made up.\n{}", body.replace('~', "\n"));
        expect(file, &source, rules);
    }
    let lines = |before: &str, count| format!("//!{before}{}}}", "\n".repeat(count));
    expect("lib.rs", &lines("", 499), "");
    expect("lib.rs", &lines("", 500), "long-file");
    expect("lib.rs", &lines("\nfn f(a: [u8; 2]) {", 69), "");
    expect("lib.rs", &lines("\nfn f(a: [u8; 2]) {", 70), "long-fn");
    assert!(check("crypto/keyring/tests.rs", "//! Laws.\nfn f() { g().unwrap() }").is_empty());
    expect("lib.rs", "\n//! Too late.", "purpose");
    assert_eq!(check("lib.rs", "//!\n/*\n*/ f(\"\n\"); dbg!()")[0].0, 4);
}

/// The line and the broken rule, with its reason, of everything untidy in one file.
fn check(file: &str, source: &str) -> Vec<(usize, String)> {
    let code = mask(source);
    let mut shipped = code.clone();
    for at in words(&code, "#[cfg(test)]") {
        let end = item_end(&code, at);
        shipped.replace_range(at..end, &" ".repeat(end - at));
    }
    // The tests of a file that would be too long with them.
    if file.ends_with("/tests.rs") {
        shipped = " ".repeat(shipped.len());
    }
    let names: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    let vague = |name: &&str| has("utils helpers common types models services", name);
    let line = |at: usize| code[..at].matches('\n').count() + 1;
    let mut found = rooms(&names, &code);
    let mut report = |at, why: &str| found.push((at, why.to_owned()));
    if !source.starts_with("//!") {
        report(0, "purpose: the first line says what the file is for");
    }
    if source.lines().count() > 500 {
        report(0, "long-file: over 500 lines nobody reads it whole");
    }
    if names.iter().any(vague) {
        report(0, "vague-name: a file is no drawer; name what it does");
    }
    for at in words(&code, "fn ") {
        if line(item_end(&code, at)) - line(at) >= 70 {
            report(at, "long-fn: over 70 lines it does too much");
        }
    }
    for at in words(&shipped, ".expect(") {
        let argument = shipped[at + 8..].trim_start().strip_prefix('"');
        let message = argument.and_then(|text| text.split('"').next());
        if message.is_some_and(|text| text.split(&as_string(" ")).count() < 3) {
            report(at, "expect: three words or more state the invariant");
        }
    }
    for [list, place, right, why] in WORDS.lines().skip(1).map(cells) {
        for word in list.split(';').filter(|_| !has(right, names[0])) {
            let places = match place {
                "shipped" => words(&shipped, word),
                "strings" => words(&code, &as_string(word)),
                _ => words(&code, word),
            };
            places.into_iter().for_each(|at| report(at, why));
        }
    }
    found.iter_mut().for_each(|(at, _)| *at = line(*at));
    found
}

/// The places where a file reaches for a room, or says a word, that its own room may not.
fn rooms(names: &[&str], code: &str) -> Vec<(usize, String)> {
    let table: Vec<[&str; 4]> = ROOMS.lines().skip(1).map(cells).collect();
    let row = |name: &str| table.iter().find(|row| row[0] == name);
    let Some([room, uses, never, why]) = row(names[0]) else {
        let unknown = !has("main lib", names[0]);
        let finding = || (0, "room: it is not in the table of rooms".to_owned());
        return unknown.then(finding).into_iter().collect();
    };
    let mut places: Vec<(usize, &str)> = Vec::new();
    let root = "super::".repeat(names.len() - usize::from(names.ends_with(&["mod"])));
    for prefix in ["crate::", "std::", &root] {
        let mut reached = after(code, prefix);
        reached.retain(|(_, name)| match prefix {
            "crate::" => name != room && !has(uses, name),
            "std::" => has(never, &format!("std::{name}")),
            _ => row(name).is_some() && name != room && !has(uses, name),
        });
        places.extend(reached);
    }
    let plain = |word: &&str| !word.starts_with("std::");
    for word in never.split_whitespace().filter(plain) {
        places.extend(words(code, word).into_iter().map(|at| (at, word)));
    }
    let finding = |(at, name)| (at, format!("room: no `{name}` in {room}: {why}"));
    places.into_iter().map(finding).collect()
}

fn cells<const N: usize>(row: &'static str) -> [&'static str; N] {
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    cells.try_into().expect("each row of a table is complete")
}

fn has(list: &str, word: &str) -> bool {
    list.split(' ').any(|item| item == word)
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands, but not as the end of a longer one; `actix` also finds `actix_web`.
fn words(text: &str, word: &str) -> Vec<usize> {
    let inside = |at: usize| word.starts_with(in_word) && text[..at].ends_with(in_word);
    let places = text.match_indices(word).map(|(at, _)| at);
    places.filter(|at| !inside(*at)).collect()
}

/// The names right after a path prefix: `a` for `crate::a::b`, `a` and `c` for `crate::{a::b, c}`.
fn after<'a>(code: &'a str, prefix: &str) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    for at in words(code, prefix) {
        let mut depth = 0;
        for part in code[at + prefix.len()..].split_inclusive(['{', ',', '}', ';']) {
            let name = part.trim_start().split(|c| !in_word(c) && c != '*').next();
            let name = name.filter(|name| depth < 2 && !name.is_empty());
            found.extend(name.map(|name| (at, name)));
            depth += i32::from(part == "{" || depth > 0 && part.ends_with('{'));
            depth -= i32::from(part.ends_with('}'));
            if depth < 1 {
                break;
            }
        }
    }
    found
}

/// Where the item at `from` ends: at its closing brace, or at a semicolon outside brackets.
fn item_end(code: &str, from: usize) -> usize {
    let (mut braces, mut brackets) = (0, 0);
    for (at, c) in code[from..].char_indices() {
        braces += i32::from(c == '{') - i32::from(c == '}');
        brackets += i32::from("([".contains(c)) - i32::from(")]".contains(c));
        if braces <= 0 && (c == '}' || c == ';' && brackets == 0) {
            return from + at;
        }
    }
    code.len()
}

/// Moves text to where no code is, so that words and braces in a string do not count as code.
fn as_string(text: &str) -> String {
    let moved = |c| char::from_u32(0xF_0000 | (u32::from(c) & 0xFFFF)).unwrap_or(c);
    let kept = |c| if c == '\n' { c } else { moved(c) };
    text.chars().map(kept).collect()
}

/// The code without comments, and with what strings and characters hold moved by `as_string`.
fn mask(source: &str) -> String {
    let (mut code, mut rest) = (String::new(), source);
    while let Some(first) = rest.chars().next() {
        let lifetime = !rest.starts_with("'\\") && rest.chars().nth(2) != Some('\'');
        let mut marks = "// /* r##\" r#\" r\" \" '".split(' ');
        let mark = marks.find(|open| rest.starts_with(open));
        let Some(open) = mark.filter(|open| *open != "'" || !lifetime) else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        let close = match open {
            "//" => "\n".to_owned(),
            "/*" => "*/".to_owned(),
            _ => open.trim_start_matches('r').chars().rev().collect(),
        };
        let held = &rest[open.len()..];
        let slashes = |at: usize| at - held[..at].trim_end_matches('\\').len();
        let mut ends = held.match_indices(&close).map(|(at, _)| at);
        let end = ends.find(|at| open.len() > 1 || slashes(*at) % 2 == 0);
        let (held, after) = held.split_at(end.unwrap_or(held.len()));
        rest = after.strip_prefix(&close).unwrap_or_default();
        code += &match close.as_str() {
            "\n" | "*/" => (held.to_owned() + &close).matches('\n').collect(),
            _ => format!("{open}{}{close}", as_string(held)),
        };
    }
    code
}
