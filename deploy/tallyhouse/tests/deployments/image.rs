//! What the images hold: the folder that the Dockerfile takes from `rootfs.sh`, run as its user.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use tallyhouse_testkit::{Folder, programs};

use crate::compose_file::folder;
use crate::tools::{output, read, skip};

const USER: u32 = 65_532;

#[test]
fn the_user_of_the_images_is_nobody_of_the_machine() {
    let dockerfile = read("compose/Dockerfile");
    assert!(dockerfile.lines().any(|line| line == format!("USER {USER}:{USER}")));
    for line in dockerfile.lines().filter(|line| line.contains("--chown=")) {
        assert!(line.contains(&format!("--chown={USER}:{USER} --chmod=700")), "{line}");
    }
    assert!(read("compose/rootfs.sh").lines().any(|line| line == format!("user={USER}")));
    // Each program is an image, started by itself, with nothing else in it.
    for program in ["ingest", "query-api", "tallyhouse", "loadtest"] {
        let target = format!("FROM base AS {program}\nCOPY --from=build /out/{program}/ /\n");
        assert!(dockerfile.contains(&target), "{target}");
        assert!(dockerfile.contains(&format!("ENTRYPOINT [\"/usr/bin/{program}\"]\n")), "{program}");
    }
}

#[test]
fn an_image_has_all_that_its_program_loads_and_its_user_writes_to_the_data_folder_alone() {
    let test = "an_image_has_all_that_its_program_loads_and_its_user_writes_to_the_data_folder_alone";
    if !rustix::process::geteuid().is_root() {
        return skip(test, "only root may change the root folder and the user of a program");
    }
    let scratch = Folder::create();
    // The folders above it are the test's own, so that another user may pass.
    let base = Path::new("/var/tmp").join(scratch.path().file_name().unwrap());
    let made = Removed(&base);
    for (program, name) in
        [(programs::ingest(), "ingest"), (programs::query_api(), "query-api"), (programs::tallyhouse(), "tallyhouse")]
    {
        let image = base.join(name);
        output(Command::new(folder().join("rootfs.sh")).arg(&program).arg(&image));
        let data = std::fs::metadata(image.join("data")).unwrap();
        assert_eq!((data.permissions().mode() & 0o777, data.uid(), data.gid()), (0o700, USER, USER));
        for file in ["etc/ssl/certs/ca-certificates.crt", "etc/passwd", "etc/nsswitch.conf"] {
            assert!(std::fs::metadata(image.join(file)).unwrap().len() > 0, "{file}");
        }
        let run = |arguments: &[&str]| {
            let mut command = Command::new("chroot");
            command.arg(format!("--userspec={USER}:{USER}")).arg(&image).arg(format!("/usr/bin/{name}"));
            command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().unwrap()
        };
        let version = run(&["--version"]);
        let printed = String::from_utf8_lossy(&version.stdout);
        assert!(version.status.success() && printed.contains(env!("CARGO_PKG_VERSION")), "{version:?}");
        if name == "tallyhouse" {
            continue;
        }
        // There is no such service: it says so, and nothing that it needs is missing.
        let health = run(&["--health", "--clickhouse-url", "http://127.0.0.1:1"]);
        assert_eq!(health.status.code(), Some(1), "{health:?}");
        assert!(
            String::from_utf8_lossy(&health.stderr).contains("not ready: the admin port at 127.0.0.1"),
            "{health:?}"
        );
    }
    drop(made);
}

/// Goes when the value goes.
struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(self.0));
    }
}
