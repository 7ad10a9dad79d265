//! Tests of `pickle.rs`.

use proptest::prelude::*;

use super::*;

fn refused(bytes: &[u8]) -> PickleError {
    read(bytes, &mut Arena::default()).unwrap_err()
}

#[test]
fn programs_are_refused() {
    // os.system("id"), as pickle.dumps makes it.
    let bomb = b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R.";
    assert_eq!(refused(bomb), PickleError::Global("posix.system".to_owned()));
    assert_eq!(refused(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93."), PickleError::Global("builtins.eval".to_owned()));
    let long = format!("c{}\nf\n.", "m".repeat(1_000_000));
    assert_eq!(refused(long.as_bytes()), PickleError::Global(format!("{}….f", "m".repeat(64))));
    assert_eq!(refused(b"ctorch\nQInt8Storage\n."), PickleError::Storage("torch.QInt8Storage".to_owned()));
    // INST and OBJ make objects by other ways.
    assert_eq!(refused(b"(ios\nsystem\n."), PickleError::Instruction(b'i'));
}

#[test]
fn what_grows_without_bound_is_refused() {
    // A list of ten of the list before it, and so on: a billion values for who copies them.
    let mut laughs = b"]q\x00".to_vec();
    for level in 0..30u8 {
        laughs.extend([b']', b'q', level + 1, b'(']);
        laughs.extend([b'h', level].repeat(10));
        laughs.push(b'e');
    }
    laughs.push(b'.');
    let mut arena = Arena::default();
    assert!(matches!(read(&laughs, &mut arena), Ok((Value::List(_), []))), "copies are one place");
    assert!(arena.values < 1000);

    let deep = [vec![b')'], vec![0x85; MOST_STEPS]].concat();
    assert_eq!(refused(&deep), PickleError::TooLarge);
    assert_eq!(refused(b"Nr\xff\xff\xff\xff."), PickleError::TooLarge);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(prop_oneof![
        any::<u8>(),
        prop::sample::select(&b"\x80.(0N\x88\x89KMJ\x8aGX\x8cc\x93)t\x85\x86\x87]}aesuqr\x94hjQRb\x00\x01\x02"[..]),
    ], 0..200)) {
        read(&bytes, &mut Arena::default()).ok();
    }
}
