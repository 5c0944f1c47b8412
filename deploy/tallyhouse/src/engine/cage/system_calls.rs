//! seccomp: system calls that an engine never needs, and that Landlock does not cover.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use super::CageError;

/// Refused with EPERM, as to anybody without the right.
const REFUSED: [c_long; 71] = [
    // Programs: Landlock lets nothing be executed from a file; a file in memory has no path.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_perf_event_open,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_userfaultfd,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_personality,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    // Files beside their paths, and system calls beside these filters.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    libc::SYS_mknodat,
    // Owners.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    // Extended attributes hold capabilities of files.
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_memfd_secret,
];

/// The same under their older names.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: [c_long; 6] =
    [libc::SYS_mknod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: [c_long; 0] = [];

/// What changes the mode of a file, and which argument is the mode.
const MODES: [(c_long, u8); 3] = [(libc::SYS_fchmod, 1), (libc::SYS_fchmodat, 2), (libc::SYS_fchmodat2, 2)];
#[cfg(target_arch = "x86_64")]
const MODES_HERE: [(c_long, u8); 1] = [(libc::SYS_chmod, 1)];
#[cfg(not(target_arch = "x86_64"))]
const MODES_HERE: [(c_long, u8); 0] = [];

/// Gives them away.
pub(super) fn restrict() -> Result<(), CageError> {
    let refused = compiled(refused()?, SeccompAction::Errno(libc::EPERM.cast_unsigned()))?;
    // Its flags are behind a pointer, where no filter sees them. The C library takes `clone` where there is none.
    let unknown = [(libc::SYS_clone3, Vec::new())].into();
    let unknown = compiled(unknown, SeccompAction::Errno(libc::ENOSYS.cast_unsigned()))?;
    apply_filter(&refused)?;
    apply_filter(&unknown)?;
    Ok(())
}

/// Whether the kernel was built without it.
pub(super) fn is_unknown_to_the_kernel(error: &CageError) -> bool {
    let (CageError::Seccomp(seccompiler::Error::Prctl(source))
    | CageError::Seccomp(seccompiler::Error::Seccomp(source))) = error
    else {
        return false;
    };
    matches!(source.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL))
}

/// Whether a filter can be applied here: a kernel with seccomp says in which mode a process is.
pub(super) fn are_filtered_here() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nSeccomp:"))
}

fn compiled(rules: BTreeMap<i64, Vec<SeccompRule>>, action: SeccompAction) -> Result<BpfProgram, CageError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?.try_into()?)
}

fn refused() -> Result<BTreeMap<i64, Vec<SeccompRule>>, CageError> {
    let whole = REFUSED.into_iter().chain(REFUSED_HERE).map(|call| (call, Vec::new()));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = whole.collect();
    rules.insert(libc::SYS_socket, foreign_sockets()?);
    rules.insert(libc::SYS_clone, any_flag(0, &NAMESPACES)?);
    // Modes are changed when parts are detached; nothing becomes a program of somebody else's rights.
    for (call, mode) in MODES.into_iter().chain(MODES_HERE) {
        rules.insert(call, any_flag(mode, &[libc::S_ISUID.cast_signed(), libc::S_ISGID.cast_signed()])?);
    }
    // TCP Fast Open connects without `connect`, which is what Landlock restricts.
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        rules.insert(call, any_flag(flags, &[libc::MSG_FASTOPEN])?);
    }
    Ok(rules)
}

/// Every socket but TCP: Landlock knows no other protocol and no socket file.
fn foreign_sockets() -> Result<Vec<SeccompRule>, CageError> {
    const TYPE: u64 = 0xf;
    let is = |argument, operator, value: i32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, u64::from(value.cast_unsigned()))
    };
    let other_family =
        SeccompRule::new(vec![is(0, SeccompCmpOp::Ne, libc::AF_INET)?, is(0, SeccompCmpOp::Ne, libc::AF_INET6)?])?;
    let other_types = [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_RDM, libc::SOCK_SEQPACKET, libc::SOCK_DCCP];
    let other_types = other_types.map(|kind| SeccompRule::new(vec![is(1, SeccompCmpOp::MaskedEq(TYPE), kind)?]));
    let other_protocols = [libc::IPPROTO_MPTCP, libc::IPPROTO_SCTP];
    let other_protocols = other_protocols.map(|protocol| SeccompRule::new(vec![is(2, SeccompCmpOp::Eq, protocol)?]));
    let rules = [Ok(other_family)].into_iter().chain(other_types).chain(other_protocols);
    Ok(rules.collect::<Result<_, _>>()?)
}

/// Threads are made with `clone` too, and they ask for none of these.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Matches a call whose argument has one of these flags.
fn any_flag(argument: u8, flags: &[i32]) -> Result<Vec<SeccompRule>, CageError> {
    let rules = flags.iter().map(|flag| {
        let flag = u64::from(flag.cast_unsigned());
        SeccompRule::new(vec![SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(flag),
            flag,
        )?])
    });
    Ok(rules.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use super::*;

    /// A filter binds the thread that applied it, and this test's threads end with it.
    #[test]
    fn what_is_refused_is_refused_and_the_rest_goes_on() {
        let refused = |outcome: io::Result<()>| outcome.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
        let checked = std::thread::spawn(move || {
            restrict().unwrap();
            assert!(refused(UdpSocket::bind("127.0.0.1:0").map(drop)), "UDP");
            assert!(refused(UnixDatagram::unbound().map(drop)), "a Unix socket");
            assert!(refused(Command::new("/bin/true").status().map(drop)), "a program");
            assert!(refused(rustix::process::chroot("/").map_err(Into::into)), "chroot");
            let file = std::env::temp_dir().join(format!("tallyhouse-mode-{}", std::process::id()));
            std::fs::write(&file, "").unwrap();
            let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode));
            assert!(refused(mode(0o4755)) && mode(0o600).is_ok(), "a mode");
            std::fs::remove_file(&file).unwrap();
            assert!(TcpListener::bind("127.0.0.1:0").is_ok(), "TCP");
            assert_eq!(std::thread::spawn(|| 1).join().ok(), Some(1), "a thread");
        });
        checked.join().unwrap();
    }
}
