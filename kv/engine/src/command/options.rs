//! Options behind the fixed arguments of a command, in any order and any case.

use super::{Call, Result};
use crate::refusal::Refusal;
use crate::resp::Request;

/// Goes through the arguments from some place on.
pub(super) struct Options<'a> {
    request: &'a Request,
    next: usize,
}

impl<'a> Options<'a> {
    pub fn new(request: &'a Request, first: usize) -> Options<'a> {
        Options { request, next: first }
    }

    /// How many arguments are left.
    pub fn left(&self) -> usize {
        self.request.len().saturating_sub(self.next)
    }

    /// Takes the next argument if it is `word`, in whatever case.
    pub fn take(&mut self, word: &str) -> bool {
        self.take_with(word, 0)
    }

    /// Takes the next argument if it is `word` and at least `more` follow it.
    pub fn take_with(&mut self, word: &str, more: usize) -> bool {
        let found = self.left() > more && self.request.arg(self.next).eq_ignore_ascii_case(word.as_bytes());
        self.next += usize::from(found);
        found
    }

    /// Takes the next argument, which is there, and says which it was.
    pub fn take_any(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    /// Goes through what is left; `option` takes what it knows, and says whether it knew anything.
    pub fn each(mut self, mut option: impl FnMut(&mut Options<'a>) -> Result<bool>) -> Result {
        while self.left() > 0 {
            if !option(&mut self)? {
                return Err(Refusal::Syntax);
            }
        }
        Ok(())
    }
}

impl<'a> Call<'a> {
    /// The options from argument `first` on.
    pub(super) fn options(&self, first: usize) -> Options<'a> {
        Options::new(self.request, first)
    }

    /// Whether argument `index` is `word`, in whatever case.
    pub fn is_word(&self, index: usize, word: &str) -> bool {
        self.arg(index).eq_ignore_ascii_case(word.as_bytes())
    }
}
