//! The archive that `make dist` makes.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, path::Path, process::Command};

use crate::{
    aws::stack::{project, succeed},
    support::{binary, is_shipped},
};

/// Packs `binary` into `out` and answers the archive.
fn pack(binary: &Path, out: &Path) -> Vec<u8> {
    std::fs::create_dir(out).unwrap();
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut script = Command::new("python3");
    script.arg(project("config/package.py")).arg(target).arg(binary).arg(out);
    succeed(script.env("SOURCE_DATE_EPOCH", "1700000000"));
    let sums = std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
    let sum = sums.into_iter().find(|path| path.extension().is_some_and(|e| e == "sha256")).unwrap();
    succeed(Command::new("sha256sum").arg("--check").arg(&sum).current_dir(out));
    std::fs::read(sum.with_extension("")).unwrap()
}

/// It is complete, and packed again elsewhere it is the same.
#[test]
fn the_archive_is_complete_and_the_same_each_time() {
    let dir = tempfile::tempdir().unwrap();
    // The binary with all its debug information takes a minute to compress, so that something stands in which calls it.
    let stand_in = dir.path().join("imgcls");
    if is_shipped() {
        std::fs::copy(binary(), &stand_in).unwrap();
    } else {
        std::fs::write(&stand_in, format!("#!/bin/sh\nexec '{}' \"$@\"\n", binary().display())).unwrap();
        std::fs::set_permissions(&stand_in, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let archive = pack(&stand_in, &dir.path().join("one"));
    assert!(archive == pack(&stand_in, &dir.path().join("two")), "two archives of one binary differ");

    let file = dir.path().join("archive.tar.xz");
    std::fs::write(&file, &archive).unwrap();
    let listed = succeed(Command::new("tar").arg("--list").arg("--file").arg(&file));
    let top = format!("imgcls-{}-{}-linux", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    for name in [
        "imgcls",
        "README.md",
        "LICENSE-MIT",
        "imgcls.toml",
        "man/imgcls.1",
        "man/imgcls-serve.1",
        "man/imgcls-queue-peek.1",
        "completions/_imgcls",
        "systemd/imgcls-serve.service",
    ] {
        assert!(listed.lines().any(|line| line == format!("{top}/{name}")), "{name} in {listed}");
    }
    succeed(Command::new("tar").arg("--extract").arg("--file").arg(&file).arg("--directory").arg(dir.path()));
    let unpacked = dir.path().join(&top);
    succeed(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&unpacked));
    manual_pages_refer_to_pages(&unpacked.join("man"));
    links_lead_somewhere(&unpacked);
    let version = succeed(Command::new(unpacked.join("imgcls")).arg("--version"));
    assert_eq!(version.trim(), format!("imgcls {}", env!("CARGO_PKG_VERSION")));
    let licences = std::fs::read_to_string(unpacked.join("THIRD-PARTY.txt")).unwrap();
    // Those of code in the binary, of tables in it, of C in it; and none of what only tests use.
    for part in ["tokio 1.", "webpki-root-certs", "ring 0.", "SQLite:", "GNU LESSER GENERAL PUBLIC LICENSE"] {
        assert!(licences.contains(part), "{part}");
    }
    assert!(!licences.contains("\nproptest "));
}

/// Every page to which one refers is there, and to every page but the program's one refers.
fn manual_pages_refer_to_pages(dir: &Path) {
    let (mut pages, mut references) = (BTreeSet::new(), BTreeSet::from(["imgcls".to_owned()]));
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        pages.insert(entry.file_name().to_str().unwrap().trim_end_matches(".1").to_owned());
        let text = std::fs::read_to_string(entry.path()).unwrap().replace("\\-", "-");
        let words = text.split_whitespace().filter_map(|word| word.split_once("(1)"));
        references.extend(words.map(|(name, _)| name.to_owned()).filter(|name| name.starts_with("imgcls")));
    }
    assert_eq!(pages, references);
}

/// What the papers in the archive link to is in it, and they show no pictures that are not.
fn links_lead_somewhere(dir: &Path) {
    for paper in ["README.md", "CHANGELOG.md", "SECURITY.md"] {
        let text = std::fs::read_to_string(dir.join(paper)).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            assert!(
                link.contains("://") || link.starts_with('#') || dir.join(link).exists(),
                "{paper} links to {link}"
            );
        }
        assert!(!text.contains("!["), "{paper}");
    }
    let readme = std::fs::read_to_string(dir.join("README.md")).unwrap();
    assert!(readme.contains("[systemd](systemd)") && readme.contains("[imgcls.toml](imgcls.toml)"), "{readme}");
}
