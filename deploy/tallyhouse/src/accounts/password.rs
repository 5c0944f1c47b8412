//! Passwords and names of accounts.

use sha2::{Digest, Sha256};
use tallyhouse_control::records::grant::Tool;
use tallyhouse_service::secret::Secret;
use tallyhouse_sql::hex;

/// Letters and digits that are not taken for one another.
const PLAIN: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// 40 of 32 characters: 200 bits.
const PASSWORD: usize = 40;

/// Two accounts of a project for the same tool need different names, and so do projects whose names differ in a dot.
const SUFFIX: usize = 5;

/// A new password. The thread's generator is a cryptographic one, seeded by the system.
pub fn generate() -> Secret {
    Secret::new(random(PASSWORD))
}

/// What is kept of a password.
pub fn sha256(password: &Secret) -> String {
    hex(&Sha256::digest(password.expose().as_bytes()))
}

/// A name that says whose it is: `grafana_shop_x7k2m`. It stands in XML, in SQL and in connection strings, as a project's name may not.
pub fn account_name(tool: Tool, project: &str) -> String {
    let project: String = project.chars().map(|c| if c == '.' { '-' } else { c }).collect();
    format!("{}_{project}_{}", tool.name(), random(SUFFIX))
}

fn random(length: usize) -> String {
    let one = || PLAIN.get(usize::from(rand::random::<u8>() % 32)).copied().map_or('a', char::from);
    (0..length).map(|_| one()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::accounts::{AccountName, PasswordHash};

    #[test]
    fn names_and_hashes_can_stand_in_users_xml() {
        for project in ["shop", "a.b-c_d", "9", &"x".repeat(64)] {
            assert!(account_name(Tool::Grafana, project).parse::<AccountName>().is_ok(), "{project}");
        }
        assert_ne!(account_name(Tool::Bi, "a"), account_name(Tool::Bi, "a"));
        let password = generate();
        assert!(password.expose().len() == PASSWORD && sha256(&password).parse::<PasswordHash>().is_ok());
    }
}
