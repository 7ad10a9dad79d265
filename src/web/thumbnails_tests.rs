//! Tests of `thumbnails.rs`.

use super::*;

fn file(length: usize) -> Vec<u8> {
    [&[0xff, 0xd8][..], &vec![1; length - 4], &[0xff, 0xd9]].concat()
}

#[test]
fn what_is_used_least_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let thumbnails = Thumbnails::with_limit(dir.path(), 100).unwrap();
    for key in ["a.jpg", "b.jpg", "c.jpg"] {
        thumbnails.write(key, &file(30)).unwrap();
    }
    assert_eq!(thumbnails.read("a.jpg"), Some(file(30)));
    thumbnails.write("d.jpg", &file(30)).unwrap();
    assert_eq!(thumbnails.read("b.jpg"), None);
    assert!(["a.jpg", "c.jpg", "d.jpg"].iter().all(|key| thumbnails.read(key).is_some()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    // Larger than all that is allowed: it goes at once.
    thumbnails.write("e.jpg", &file(200)).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_kept_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let thumbnails = Thumbnails::open(dir.path()).unwrap();
    fs::create_dir(dir.path().join("a.jpg")).unwrap();
    thumbnails.write("a.jpg", &file(30)).unwrap_err();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the directory alone");
    assert_eq!(thumbnails.kept(|kept| kept.bytes), 0);
}

#[test]
fn what_is_gone_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let thumbnails = Thumbnails::open(dir.path()).unwrap();
    let [one, two]: [ImageName; 2] = ["1.png", "2.png"].map(|name| name.parse().unwrap());
    let key = |image| format!("{}0-64.jpg", prefix(image));
    for image in [&one, &two] {
        thumbnails.write(&key(image), &file(30)).unwrap();
    }
    thumbnails.forget(Some(&one));
    assert_eq!((thumbnails.read(&key(&one)), thumbnails.read(&key(&two))), (None, Some(file(30))));
    thumbnails.forget(None);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_restart_finds_what_is_kept_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    Thumbnails::open(dir.path()).unwrap().write("a.jpg", &file(30)).unwrap();
    fs::write(dir.path().join("b.jpg"), &file(30)[..20]).unwrap();
    fs::write(dir.path().join("c.jpg.0123"), file(30)).unwrap();
    let thumbnails = Thumbnails::open(dir.path()).unwrap();
    assert_eq!(thumbnails.read("a.jpg"), Some(file(30)));
    assert_eq!(thumbnails.read("b.jpg"), None);
    assert!(!dir.path().join("c.jpg.0123").exists());
}
