//! One machine with systemd: the unit, what `tallyhouse service` puts in place, and the Debian package.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tallyhouse_testkit::{Folder, free_ports, programs};

use crate::tools::{output, read, root, skip};

fn tallyhouse(arguments: &[&str]) -> Output {
    Command::new(programs::tallyhouse()).args(arguments).output().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o7777
}

fn says(unit: &str, name: &str) -> String {
    let prefix = format!("{name}=");
    unit.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_else(|| panic!("no {name}")).to_owned()
}

/// Complaints of systemd about a unit, each a line.
fn verified(unit: &Path) -> String {
    let Output { status, stdout, stderr } =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(unit).output().unwrap();
    let printed = [stdout, stderr].concat();
    format!("{}{}", if status.success() { "" } else { "failed\n" }, String::from_utf8_lossy(&printed))
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn what_install_puts_below_a_folder_is_complete_and_systemd_understands_its_unit() {
    let test = "what_install_puts_below_a_folder_is_complete_and_systemd_understands_its_unit";
    let scratch = Folder::create();
    let image = scratch.path().join("image");
    let image_text = image.display().to_string();
    // Its library is half a gigabyte, and of no use here.
    let install = || {
        let mut command = Command::new(programs::tallyhouse());
        command.args(["service", "install", "--root", &image_text]).env("TALLYHOUSE_ENGINE_LIBRARY", "/nowhere");
        output(&mut command)
    };
    let printed = install();
    assert!(printed.contains("/usr/local/bin/tallyhouse\n") && printed.contains("/nowhere is not there"), "{printed}");
    let at = |path: &str| image.join(path);
    let modes = [
        ("usr/local/bin/tallyhouse", 0o755),
        ("usr/local/bin/tallyhousectl", 0o755),
        ("etc/systemd/system", 0o755),
        ("etc/systemd/system/tallyhouse.service", 0o644),
        ("etc/tallyhouse", 0o750),
        ("etc/tallyhouse/tallyhouse.env", 0o640),
    ];
    for (path, expected) in modes {
        assert_eq!(mode(&at(path)), expected, "{path}");
    }
    let unit = fs::read_to_string(at("etc/systemd/system/tallyhouse.service")).unwrap();
    let program = says(&unit, "ExecStart");
    let program = program.strip_suffix(" up").unwrap().trim_start_matches('/');
    let version = output(Command::new(at(program)).arg("--version"));
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    assert!(fs::read_to_string(at("usr/local/bin/tallyhousectl")).unwrap().contains("/usr/local/bin/tallyhouse "));

    // What was changed stays.
    fs::write(at("etc/tallyhouse/tallyhouse.env"), "QUERY_DRAIN_MS=30000\n").unwrap();
    assert!(install().contains("kept as it was"));
    assert_eq!(fs::read_to_string(at("etc/tallyhouse/tallyhouse.env")).unwrap(), "QUERY_DRAIN_MS=30000\n");
    output(Command::new(programs::tallyhouse()).args(["service", "uninstall", "--root", &image_text]));
    assert!(!at("usr/local/bin/tallyhouse").exists() && !at("etc/systemd/system/tallyhouse.service").exists());
    assert!(at("etc/tallyhouse/tallyhouse.env").exists());

    if !is_there("systemd-analyze") {
        return skip(test, "in part: systemd-analyze is not there");
    }
    // It looks for the program where the unit says.
    let prefix = scratch.path().join("prefix");
    fs::create_dir_all(prefix.join("bin")).unwrap();
    std::os::unix::fs::symlink(programs::tallyhouse(), prefix.join("bin/tallyhouse")).unwrap();
    let unit = output(Command::new(programs::tallyhouse()).args(["service", "unit", "--prefix"]).arg(&prefix));
    let path = scratch.path().join("tallyhouse.service");
    fs::write(&path, &unit).unwrap();
    assert_eq!(verified(&path), "");
    fs::write(&path, unit.replace("TasksMax", "TaskMax")).unwrap();
    assert!(verified(&path).contains("TaskMax"), "it finds nothing");
}

#[test]
fn only_root_installs_into_the_machine_and_a_wrong_variable_installs_nothing() {
    let scratch = Folder::create();
    let image = scratch.path().join("image").display().to_string();
    let mut command = Command::new(programs::tallyhouse());
    command.args(["service", "install", "--root", &image]).env("INGEST_DRAIN_MS", "soon");
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("INGEST_DRAIN_MS: `soon`") && !Path::new(&image).exists()
    );
    let refused = tallyhouse(&["service", "unit", "--prefix", "relative"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is not an absolute path"), "{refused:?}");
}

/// systemd knows the names: of a release that does not, the cage would be without them.
#[test]
fn systemd_lets_the_cage_be_built() {
    let test = "systemd_lets_the_cage_be_built";
    if !is_there("systemd-analyze") {
        return skip(test, "systemd-analyze is not there");
    }
    let filter = says(&read("systemd/tallyhouse.service"), "SystemCallFilter");
    let known = output(Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", "@known"]));
    let known: Vec<&str> = known.lines().map(|line| line.trim_start_matches(['#', ' '])).collect();
    for call in filter.split(' ').filter(|call| !call.starts_with('@')) {
        assert!(known.contains(&call), "{call}");
    }
    let group = output(Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", "@process"]));
    assert!(group.contains("prctl"), "no_new_privs and the death signal");
}

#[test]
fn variables_of_the_shipped_file_are_those_of_the_service() {
    let text = read("systemd/tallyhouse.env");
    let commented =
        |line: &&str| line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
    let names: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#') || commented(line))
        .filter_map(|line| Some(line.trim_start_matches('#').split_once('=')?.0))
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(tallyhouse_service::env::NAMES.contains(&name), "{name}");
    }
}

/// `[package.metadata.deb]` as cargo reads it.
fn metadata() -> Value {
    let manifest = root().join("deploy/tallyhouse/Cargo.toml");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version=1", "--manifest-path"]).arg(manifest);
    let metadata: Value = serde_json::from_str(&output(&mut cargo)).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let own = packages.iter().find(|package| package["name"] == "tallyhouse").unwrap();
    own["metadata"]["deb"].clone()
}

/// The package without ClickHouse's library, from the programs of this build: laid out as the metadata says, packed by dpkg.
fn package(folder: &Path) -> PathBuf {
    let metadata = metadata();
    let here = root().join("deploy/tallyhouse");
    let image = folder.join("image");
    for asset in metadata["variants"]["slim"]["assets"].as_array().unwrap() {
        let [from, to, mode] = [0, 1, 2].map(|index| asset[index].as_str().unwrap());
        let from = match from.strip_prefix("target/release/") {
            Some("tallyhouse") => programs::tallyhouse(),
            _ => here.join(from),
        };
        let target = image.join(to);
        output(Command::new("install").args(["-D", "-m", mode, "-t"]).arg(&target).arg(&from));
    }
    let control = image.join("DEBIAN");
    output(Command::new("cp").arg("-r").arg(here.join(metadata["maintainer-scripts"].as_str().unwrap())).arg(&control));
    let depends = metadata["depends"].as_str().unwrap().replace("$auto, ", "");
    let text = format!(
        "Package: tallyhouse\nVersion: {}-1\nArchitecture: all\nMaintainer: {}\nDepends: {depends}\nDescription: test\n",
        env!("CARGO_PKG_VERSION"),
        metadata["maintainer"].as_str().unwrap()
    );
    fs::write(control.join("control"), text).unwrap();
    let kept: Vec<&str> =
        metadata["conf-files"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    fs::write(control.join("conffiles"), format!("{}\n", kept.join("\n"))).unwrap();
    output(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(&control));
    output(Command::new("chmod").arg("755").args([&image, &image.join("etc"), &image.join("etc/tallyhouse")]));
    let deb = folder.join("tallyhouse.deb");
    output(Command::new("dpkg-deb").args(["--build", "--root-owner-group", "-Znone"]).arg(&image).arg(&deb));
    deb
}

/// Both lists of files differ in the library alone, and name what is there.
#[test]
fn the_package_has_all_that_it_names() {
    let metadata = metadata();
    let here = root().join("deploy/tallyhouse");
    let files = |assets: &Value| -> Vec<String> {
        assets.as_array().unwrap().iter().map(|asset| asset[0].as_str().unwrap().to_owned()).collect()
    };
    let (all, slim) = (files(&metadata["assets"]), files(&metadata["variants"]["slim"]["assets"]));
    let only: Vec<&String> = all.iter().filter(|file| !slim.contains(file)).collect();
    assert!(only.len() == 1 && only[0].ends_with("libchdb.so") && all.len() == slim.len() + 1, "{only:?}");
    for file in slim.iter().filter(|file| !file.starts_with("target/")) {
        assert!(here.join(file).is_file(), "{file}");
    }
    for script in ["postinst", "prerm", "postrm"] {
        let path = here.join(metadata["maintainer-scripts"].as_str().unwrap()).join(script);
        assert_eq!(mode(&path) & 0o111, 0o111, "{script}");
        output(Command::new("sh").arg("-n").arg(&path));
    }
}

/// The long form is `make deb-test`, with the package of cargo-deb.
#[test]
fn a_package_is_installed_used_upgraded_and_removed() {
    let test = "a_package_is_installed_used_upgraded_and_removed";
    if !rustix::process::geteuid().is_root() || !is_there("dpkg-deb") {
        return skip(test, "it needs root and dpkg, to install a package on a copy of this machine");
    }
    let scratch = Folder::create();
    let library = root().join(".setup/engine/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so");
    let names = ["INGEST_ADDR", "INGEST_ADMIN_ADDR", "QUERY_ADDR", "QUERY_ADMIN_ADDR", "CLICKHOUSE_HTTP_PORT"];
    let ports = free_ports::<5>().map(|port| port.to_string());
    let mut command = Command::new(root().join("deploy/systemd/try-package.sh"));
    command.arg(package(scratch.path()));
    if library.is_file() {
        command.arg(library);
    }
    for (name, port) in names.into_iter().zip(ports) {
        command.env(name, if name.ends_with("_ADDR") { format!("127.0.0.1:{port}") } else { port });
    }
    let tried = command.output().unwrap();
    if tried.status.code() == Some(77) {
        return skip(test, "no overlay can be mounted on the root folder here");
    }
    assert!(
        tried.status.success(),
        "{}{}",
        String::from_utf8_lossy(&tried.stdout),
        String::from_utf8_lossy(&tried.stderr)
    );
}
