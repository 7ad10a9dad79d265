//! Tests of `name.rs`.

use proptest::prelude::*;

use super::*;

fn named(raw: &str) -> Result<String, NameError> {
    ImageName::from_upload(raw, &Digest::of(b"x")).map(String::from)
}

#[test]
fn takes_safe_paths_and_base_names() {
    for (raw, name) in [
        ("cat/0000.jpg", "cat/0000.jpg"),
        ("e\u{301}/\u{200b}x/..a/ .png", "\u{e9}/x/..a/ .png"),
        ("/etc/passwd", "passwd"),
        ("a/../b.png", "b.png"),
        ("a//b.png", "b.png"),
        ("./a/b.png", "b.png"),
        ("C:/photos/x.jpg", "x.jpg"),
        ("C:x.jpg", "C:x.jpg"),
        ("a/\u{200b}/b.png", "b.png"),
        ("a/.\u{200b}./b.png", "b.png"),
        ("a b.png", "a b.png"),
        ("../../etc/passwd", "passwd"),
        (r"C:\photos\x.jpg", "x.jpg"),
        ("a/b\\c.png", "c.png"),
        ("100%+1.png", "100%+1.png"),
        ("e\u{301}.png", "\u{e9}.png"),
        ("a\u{202e}gnp.exe", "agnp.exe"),
        ("x\0\n.png", "x.png"),
        (".hidden", ".hidden"),
        ("🦀.png", "🦀.png"),
        // Joiners stay where they are part of what is written, ...
        ("👩\u{200d}🚀/👨🏽\u{200d}❤\u{fe0f}\u{200d}👨.png", "👩\u{200d}🚀/👨🏽\u{200d}❤\u{fe0f}\u{200d}👨.png"),
        ("می\u{200c}خواهم.png", "می\u{200c}خواهم.png"),
        ("क्\u{200d}ष.png", "क्\u{200d}ष.png"),
        // ... and go where they would only hide.
        ("c\u{200d}at.png", "cat.png"),
        ("\u{200c}می\u{200d}.png", "می.png"),
        ("می\u{200c}\u{200d}خواهم.png", "میخواهم.png"),
        ("می\u{200b}\u{200c}\u{202e}خواهم.png", "می\u{200c}خواهم.png"),
        ("e\u{200d}\u{301}\u{200c}خ.png", "\u{e9}خ.png"),
    ] {
        assert_eq!(named(raw).as_deref(), Ok(name), "{raw:?}");
    }
}

#[test]
fn refuses_what_is_no_name() {
    assert_eq!(named(""), Err(NameError::Empty));
    assert_eq!(named("dir/"), Err(NameError::Empty));
    assert_eq!(named("\u{200b}\u{feff}"), Err(NameError::Empty));
    assert_eq!(named(".."), Err(NameError::Dots("..".into())));
    assert_eq!(named("a/."), Err(NameError::Dots(".".into())));
    for name in ["/a", "a/", "a//b", "a/../b", "./a", r"a\b", "C:/a"] {
        assert!(name.parse::<ImageName>().is_err(), "{name}");
    }
    assert!("e\u{301}".parse::<ImageName>().is_err());
}

#[test]
fn cuts_long_names_and_keeps_the_extension() {
    let hash = &Digest::of(b"x").to_hex()[..8];
    let name = named(&format!("{}.png", "é".repeat(200))).unwrap();
    assert!(name.len() <= MAX_NAME_BYTES && name.ends_with(&format!("é.{hash}.png")), "{name}");
    let name = named(&"a".repeat(300)).unwrap();
    assert_eq!(name, format!("{}.{hash}", "a".repeat(246)));
}

#[test]
fn long_paths_are_cut_in_their_base_or_refused() {
    let folder = |bytes: usize| vec!["f".repeat(100); bytes / 100].join("/");
    let name = named(&format!("{}/{}.png", folder(300), "é".repeat(120))).unwrap();
    assert!(name.len() <= MAX_NAME_BYTES && name.starts_with(&folder(300)) && name.ends_with(".png"), "{name}");
    assert_eq!(named(&format!("{}/a.png", folder(500))), Err(NameError::LongFolders("a.png".into())));
    assert_eq!(named(&format!("{}/a.png", "f".repeat(256))), Err(NameError::LongFolders("a.png".into())));
    assert!(named(&format!("{}/a.png", "f".repeat(255))).is_ok());
}

#[test]
fn folders_are_told() {
    let name: ImageName = "a/b/c.png".parse().unwrap();
    assert_eq!((name.base(), name.folders().collect::<Vec<_>>()), ("c.png", vec!["a/b", "a"]));
    assert_eq!("c".parse::<ImageName>().unwrap().folders().count(), 0);
}

#[test]
fn candidates_add_more_and_more_of_the_hash() {
    let digest = Digest::of(b"x");
    let name: ImageName = "cat.png".parse().unwrap();
    let candidates: Vec<String> = name.candidates(&digest).map(String::from).collect();
    let hex = digest.to_hex();
    assert_eq!(
        candidates,
        [
            "cat.png".to_owned(),
            format!("cat.{}.png", &hex[..8]),
            format!("cat.{}.png", &hex[..16]),
            format!("cat.{hex}.png")
        ]
    );
}

proptest! {
    /// Whatever a browser or a bucket calls a file, its name leads nowhere else and hides nothing.
    #[test]
    fn no_name_leads_elsewhere(
        parts in proptest::collection::vec(
            "\\PC{0,8}|[./\\\\]{0,4}|[\u{0}-\u{1f}\u{202e}\u{200b}\u{feff}]{0,3}|\
                [eخ🦀\u{301}\u{200c}\u{200d}]{0,6}", 0..6,
        ),
    ) {
        let raw = parts.concat();
        for name in [ImageName::from_upload(&raw, &Digest::of(b"x")), raw.parse()].into_iter().flatten() {
            let text = name.as_str();
            prop_assert!(!text.is_empty() && text.len() <= MAX_NAME_BYTES);
            let is_safe = |part: &str| !is_special(part) && part.len() <= MAX_COMPONENT_BYTES;
            prop_assert!(text.split('/').all(is_safe), "{text:?}");
            let is_hidden = |c| is_invisible(c) && !is_joiner(c);
            prop_assert!(!text.contains('\\') && !text.chars().any(is_hidden), "{text:?}");
            prop_assert!(text.split('/').all(|part| without_stray_joiners(part).is_none()), "{text:?}");
            let is_normal = |part| matches!(part, std::path::Component::Normal(_));
            prop_assert!(std::path::Path::new(text).components().all(is_normal));
        }
    }

    #[test]
    fn every_name_is_canonical_and_fits(
        raw in "\\PC{0,300}|.{0,40}|[0-9aİ/]{0,500}|([a-zé1]{1,90}/){0,6}[a1é.]{0,300}|\
            ([eخ\u{301}\u{200c}]{1,9}/){0,2}[eخ🦀.\u{301}\u{200c}\u{200d}]{0,150}",
        bytes: [u8; 4],
    ) {
        if let Ok(name) = ImageName::from_upload(&raw, &Digest::of(&bytes)) {
            for candidate in name.candidates(&Digest::of(&bytes)) {
                prop_assert!(candidate.as_str().len() <= MAX_NAME_BYTES);
                prop_assert!(sort_key(candidate.as_str()).len() <= MAX_KEY_BYTES);
                prop_assert_eq!(candidate.as_str().parse::<ImageName>(), Ok(candidate.clone()));
            }
        }
    }
}
