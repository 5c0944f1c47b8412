//! A terminal as the standard input of the engine.
//!
//! `clickhouse local` ends its process when an error reaches its error handler, unless it believes that a person sits in front of it:
//! standard input is a terminal, and it was asked to be `--interactive`. Errors of connections reach that handler, so without a
//! terminal any client that sends junk, or hangs up early, ends the store for everybody.
//!
//! Nobody types anything. Whoever holds [`Terminal::master`] keeps the terminal open; closing it would be an end of input, and the engine reads
//! none before its endless query ends. It is not the controlling terminal of the engine, so that no signal comes from it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

/// Both ends of a new terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    /// Our end.
    pub(super) master: OwnedFd,
    /// The end that is a standard input.
    pub(super) slave: OwnedFd,
}

/// Opens a terminal, both ends closed on `exec`.
pub(super) fn open() -> io::Result<Terminal> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    // Not by its name: `/dev/pts` may be that of another mount namespace.
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    Ok(Terminal { master, slave })
}

#[cfg(test)]
mod tests {
    use std::io::IsTerminal;

    use super::*;

    #[test]
    fn both_ends_are_terminals() {
        let terminal = open().unwrap();
        assert!(terminal.slave.is_terminal() && terminal.master.is_terminal());
    }
}
