//! Directories and files that only their owner may read.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// What the owner's group and all others may do.
const OTHERS: u32 = 0o077;

/// A directory in which everybody may make files, such as `/tmp`.
const STICKY: u32 = 0o1000;

/// Creates the directory and those above it that are missing, for the owner alone; one that is there stays as it is.
///
/// # Errors
/// If it cannot be created.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// How a file is opened for writing that, if it is created, is the owner's alone.
pub(crate) fn writing() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// Takes from all but the owner what they may do with a file or directory, if it is there and this user's. A directory
/// in which everybody may make files is no one's and stays.
///
/// # Errors
/// If its permissions can be neither read nor set.
pub(crate) fn restrict(path: &Path) -> io::Result<()> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mode = metadata.permissions().mode();
    if mode & OTHERS == 0 || mode & STICKY != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode & !OTHERS & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_made_is_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("a/b");
        create_dir(&made).unwrap();
        create_dir(&made).unwrap();
        writing().create_new(true).open(made.join("f")).unwrap();
        assert_eq!([mode(&made), mode(&dir.path().join("a")), mode(&made.join("f"))], [0o700, 0o700, 0o600]);
    }

    #[test]
    fn what_is_there_is_restricted_unless_it_is_everybodys() {
        let dir = tempfile::tempdir().unwrap();
        let (file, shared) = (dir.path().join("f"), dir.path().join("shared"));
        fs::write(&file, "").unwrap();
        fs::create_dir(&shared).unwrap();
        for (path, before, after) in
            [(&file, 0o644, 0o600), (&file, 0o600, 0o600), (&shared, 0o1777, 0o1777), (&shared, 0o755, 0o700)]
        {
            fs::set_permissions(path, fs::Permissions::from_mode(before)).unwrap();
            restrict(path).unwrap();
            assert_eq!(mode(path), after);
        }
        restrict(&dir.path().join("none")).unwrap();
    }
}
