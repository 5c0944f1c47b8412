//! Accounts of people's tools in ClickHouse: each sees one project, through the views.
//!
//! ```text
//! users create -> record of kind `grant` (SHA-256 of the password) -+-> embedded: the process with the engine sees it ([`keeper`], 2 s)
//!                                                                   |     -> users.xml -> engine -> the command sees it come in -> prints
//!                                                                   '-> given: statements, carried out or printed ([`statements`])
//! ```
//!
//! The record says what is to be; users.xml and the users of a server follow it. Failure cases:
//! * the process with the engine is away: the record is there, and the account comes in at its next start. The command says so;
//! * the writer of a given server may not make users, which is the rule: the statements are printed, for an administrator;
//! * ClickHouse is away: nothing is written, nothing changes, who was let in is let in;
//! * the engine does not come back with the new users.xml: it is started again as after any crash, and the log says so.

pub mod commands;
pub mod keeper;
pub mod password;
pub mod records;
pub mod statements;
