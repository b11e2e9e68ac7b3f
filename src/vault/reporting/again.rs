//! A report made again outside the vault, without keys, from the entries of a database alone.

use crate::domain::activity::Gathering;
use crate::domain::document::Section;
use crate::domain::entry::{EntryView, Place};
use crate::domain::index::Indexed;
use crate::domain::meta::Meta;
use crate::domain::reports::peers::Peers;
use crate::domain::reports::users::UsersFold;
use crate::domain::reports::{Fold, Params, ReportKind};
use crate::domain::time::Timestamp;

/// What is counted so far.
pub(super) struct Again {
    fold: Option<Box<dyn Fold>>,
    users: Option<(UsersFold, Gathered)>,
    peers: Option<(Peers, Gathered)>,
}

/// Entries that wait to be counted together.
#[derive(Default)]
struct Gathered {
    all: Gathering,
    count: u16,
}

impl Gathered {
    /// Takes in an entry; when it is full, what it gathered.
    fn add(&mut self, meta: &Meta, received: Timestamp) -> Option<Gathering> {
        self.all.add(&Indexed::of(meta).deed, received, self.count);
        self.count = self.count.wrapping_add(1);
        (self.count == 0).then(|| std::mem::take(&mut self.all))
    }
}

impl Again {
    pub(super) fn new(kind: ReportKind, params: &Params) -> Self {
        let users = kind == ReportKind::Users;
        let peers = kind == ReportKind::Access;
        Self {
            fold: kind.fold(params),
            users: users.then(|| (UsersFold::new(params), Gathered::default())),
            peers: peers.then(|| (Peers::new(params), Gathered::default())),
        }
    }

    pub(super) fn prepare(&mut self, entry: &EntryView) {
        if let Some(fold) = &mut self.fold {
            fold.prepare(entry);
        }
    }

    /// Takes in any entry of the ledger.
    pub(super) fn count(&mut self, meta: &Meta, received: Timestamp) {
        if let Some((peers, gathered)) = &mut self.peers
            && let Some(full) = gathered.add(meta, received)
        {
            peers.add(&full.finish(u32::MAX)).expect("what was just gathered reads");
        }
    }

    /// Takes in an entry that belongs into the report. Reports that would outgrow their bounds were never made.
    pub(super) fn add(&mut self, meta: &Meta, place: Place) {
        if let Some((users, gathered)) = &mut self.users
            && let Some(full) = gathered.add(meta, place.received_at)
        {
            users.add(&full.finish(u32::MAX)).expect("what was just gathered reads");
        }
        if let Some(fold) = &mut self.fold {
            let _fits = fold.add(&EntryView::new(meta, place, String::new(), 0, &[]), &[]);
        }
    }

    pub(super) fn sections(self) -> Vec<Section> {
        if let Some((mut users, gathered)) = self.users {
            users.add(&gathered.all.finish(u32::MAX)).expect("what was just gathered reads");
            users.settle();
            return users.sections();
        }
        let mut sections = self.fold.map_or_else(Vec::new, Fold::sections);
        if let Some((mut peers, gathered)) = self.peers {
            peers.add(&gathered.all.finish(u32::MAX)).expect("what was just gathered reads");
            // Behind the summary, as the vault puts it.
            sections.splice(1..1, peers.section());
        }
        sections
    }
}
