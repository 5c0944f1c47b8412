//! Parameters of lists.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::operations::OperationError;

/// Entries of a page, unless it is said, and at most.
const USUAL: usize = 100;
const MOST: usize = 1_000;

/// The parameters of a query string, each once.
pub(super) struct Params(BTreeMap<String, String>);

/// A page of a list.
#[derive(Serialize)]
pub(super) struct Listed<T> {
    data: Vec<T>,
    /// What to ask for as `after` or `before` to go on; `null` at the end.
    next: Option<String>,
}

impl Params {
    pub(super) fn read(raw: Option<&str>, known: &[&str]) -> Result<Self, OperationError> {
        let mut params = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(raw.unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                return Err(OperationError::invalid(&name, format!("is no parameter; there are {}", known.join(", "))));
            }
            if params.insert(name.to_string(), value.into_owned()).is_some() {
                return Err(OperationError::invalid(&name, "is there several times"));
            }
        }
        Ok(Self(params))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn limit(&self) -> Result<usize, OperationError> {
        let Some(text) = self.get("limit") else { return Ok(USUAL) };
        let wrong = || OperationError::invalid("limit", format!("is a whole number from 1 to {MOST}"));
        text.parse().ok().filter(|limit| (1..=MOST).contains(limit)).ok_or_else(wrong)
    }
}

impl<T> Listed<T> {
    /// The page of a whole list that begins after an entry.
    pub(super) fn page(all: Vec<T>, params: &Params, name: impl Fn(&T) -> &str) -> Result<Self, OperationError> {
        let limit = params.limit()?;
        let mut rest = all.into_iter().peekable();
        if let Some(after) = params.get("after") {
            let is_there = rest.by_ref().any(|entry| name(&entry) == after);
            if !is_there {
                return Err(OperationError::invalid("after", "is not in the list any more: begin again"));
            }
        }
        let data: Vec<T> = rest.by_ref().take(limit).collect();
        let next = rest.peek().and(data.last()).map(|entry| name(entry).to_owned());
        Ok(Self { data, next })
    }

    /// A page that was read; it may go on when it is full.
    pub(super) fn read(data: Vec<T>, limit: usize, name: impl Fn(&T) -> &str) -> Self {
        let next = data.last().filter(|_| data.len() >= limit).map(|entry| name(entry).to_owned());
        Self { data, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_bounded_and_go_on() {
        let all: Vec<String> = (0..250).map(|number| format!("{number:03}")).collect();
        let page = |raw: &str| {
            let params = Params::read(Some(raw), &["limit", "after"])?;
            Listed::page(all.clone(), &params, |name| name).map(|listed| (listed.data.len(), listed.next))
        };
        assert_eq!(page(""), Ok((100, Some("099".to_owned()))));
        assert_eq!(page("after=099"), Ok((100, Some("199".to_owned()))));
        assert_eq!(page("after=199"), Ok((50, None)));
        assert_eq!(page("limit=1000"), Ok((250, None)));
        for wrong in ["limit=0", "limit=1001", "limit=x", "after=x", "x=1", "limit=1&limit=2"] {
            assert!(page(wrong).is_err(), "{wrong}");
        }
    }
}
