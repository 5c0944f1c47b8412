//! The text of a key: `th_ing_` and 42 characters, of which the last six are a check.
//!
//! The prefix says what a key is for, so that people and scanners for leaked secrets recognise it. The check finds a mistyped or cut key
//! without asking anybody. It is no secret: who knows a key's form can make up keys that pass it.

use sha2::{Digest, Sha256};
use tallyhouse_service::access::Scope;
use tallyhouse_service::secret::Secret;

/// SHA-256 of a key's text: all that is kept of it.
pub type KeyDigest = [u8; 32];

/// Random characters: 214 bits.
const RANDOM: usize = 36;

/// Characters of the check, which hold 32 bits.
const CHECK: usize = 6;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What every key of ours begins with.
const OURS: &str = "th_";

/// The prefixes, in the order in which the scopes of a key are looked for.
const PREFIXES: [(Scope, &str); 7] = [
    (Scope::Admin, "th_adm_"),
    (Scope::Browser, "th_pub_"),
    (Scope::Ingest, "th_ing_"),
    (Scope::Import, "th_imp_"),
    (Scope::Query, "th_qry_"),
    (Scope::Export, "th_exp_"),
    (Scope::Sql, "th_sql_"),
];

/// What a text is, as far as can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// It may be a key: whoever made it knew the form.
    Whole,
    /// It begins as a key and is none: mistyped or cut.
    Broken,
    /// Nothing that we made.
    Foreign,
}

/// A new key for these scopes; an operator's has none.
pub fn generate(scopes: &[Scope]) -> Secret {
    let prefix = PREFIXES.into_iter().find(|(scope, _)| scopes.contains(scope)).map_or("th_adm_", |(_, prefix)| prefix);
    let mut text = String::with_capacity(prefix.len() + RANDOM + CHECK);
    text.push_str(prefix);
    while text.len() < prefix.len() + RANDOM {
        // The greatest multiple of 62 in a byte: beyond, some characters would be likelier. The generator is a cryptographic one.
        let byte = rand::random::<u8>();
        if byte < 248 {
            text.push(character(byte.into()));
        }
    }
    text.push_str(&check(&text));
    Secret::new(text)
}

/// What a presented text is.
pub fn form(text: &str) -> Form {
    if !text.starts_with(OURS) {
        return Form::Foreign;
    }
    let is_whole = PREFIXES.iter().any(|(_, prefix)| {
        let head = text.len().checked_sub(CHECK).and_then(|at| text.split_at_checked(at));
        text.starts_with(prefix)
            && text.len() == prefix.len() + RANDOM + CHECK
            && head.is_some_and(|(head, found)| check(head) == found)
    });
    if is_whole { Form::Whole } else { Form::Broken }
}

/// What is kept of a key.
pub fn digest(text: &str) -> KeyDigest {
    Sha256::digest(text.as_bytes()).into()
}

/// The check of what stands before it.
fn check(head: &str) -> String {
    let mut rest = crc32fast::hash(head.as_bytes());
    let mut digits = [' '; CHECK];
    for digit in digits.iter_mut().rev() {
        *digit = character(rest % 62);
        rest /= 62;
    }
    digits.iter().collect()
}

fn character(number: u32) -> char {
    ALPHABET.get(number as usize % ALPHABET.len()).copied().map_or('0', char::from)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_key_says_what_it_is_for_and_is_found_broken_when_one_character_is() {
        let key = generate(&[Scope::Query, Scope::Ingest]);
        let text = key.expose();
        assert!(text.starts_with("th_ing_") && text.len() == 49, "{text}");
        assert_eq!(form(text), Form::Whole);
        for at in 0..text.len() {
            let mut other: Vec<char> = text.chars().collect();
            other[at] = if other[at] == 'x' { 'y' } else { 'x' };
            assert_ne!(form(&other.into_iter().collect::<String>()), Form::Whole, "{at}");
        }
        for broken in
            [text.get(..48).unwrap(), &format!("{text}x"), &text.to_lowercase(), "th_", "th_ing_", "th_ing_\u{e9}"]
        {
            assert_eq!(form(broken), Form::Broken, "{broken}");
        }
        for foreign in ["", "demo-ingest-key", "TH_ing_", " th_ing_"] {
            assert_eq!(form(foreign), Form::Foreign, "{foreign}");
        }
    }

    #[test]
    fn admin_wins_and_every_scope_has_a_prefix() {
        let begins = |scopes: &[Scope], prefix: &str| generate(scopes).expose().starts_with(prefix);
        assert!(begins(&[Scope::Ingest, Scope::Admin], "th_adm_") && begins(&[], "th_adm_"));
        assert!(begins(&[Scope::Browser], "th_pub_") && begins(&[Scope::Sql], "th_sql_"));
        assert!(Scope::ALL.iter().all(|scope| form(generate(&[*scope]).expose()) == Form::Whole));
    }

    #[test]
    fn keys_differ_in_all_characters() {
        let keys: Vec<String> = (0..200).map(|_| generate(&[Scope::Ingest]).expose().to_owned()).collect();
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
        let seen: HashSet<char> = keys.iter().flat_map(|key| key.chars().skip(7)).collect();
        assert_eq!(seen.len(), 62);
    }
}
