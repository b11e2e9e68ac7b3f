//! What is wrong with an input, said so that a developer can mend it and nothing of the patient is repeated.

use serde::Serialize;

/// One thing wrong with an input.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct Issue {
    /// Where: a JSON pointer (RFC 6901) into what was sent, or the name of a parameter.
    pub pointer: String,
    /// What: a stable code.
    pub code: &'static str,
    /// What was wrong and what would do, in words. Never repeats a value.
    pub detail: String,
    /// The line of a batch, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

impl Issue {
    /// An issue at a pointer.
    pub fn new(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code, detail: detail.into(), line: None }
    }

    /// The same issue, placed on a line of a batch.
    pub fn on_line(mut self, line: usize) -> Self {
        self.line = Some(line);
        self
    }
}

/// Collects issues while an input is checked, so that a caller learns all of them at once.
#[derive(Default)]
pub struct Issues(Vec<Issue>);

impl Issues {
    /// No more than this many issues are kept of one input.
    pub const MAX: usize = 20;

    /// Notes an issue.
    pub fn add(&mut self, pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) {
        if self.0.len() < Self::MAX {
            self.0.push(Issue::new(pointer, code, detail));
        }
    }

    /// The value if nothing was wrong, else everything that was.
    pub fn finish<T>(self, value: T) -> Result<T, Vec<Issue>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }

    /// Whether nothing was wrong so far.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
