//! Tests of `model.rs`.

use super::*;

#[test]
fn three_numbers_are_three_numbers() {
    assert_eq!(three("0.1, 0.2,3"), Ok([0.1, 0.2, 3.0]));
    for bad in ["", "1,2", "1,2,3,4", "a,b,c"] {
        assert!(three(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn unknown_architectures_are_told_the_known_ones() {
    assert_eq!(architecture("resnet34"), Ok(Architecture::ResNet34));
    assert!(architecture("vgg16").unwrap_err().contains("resnet18, resnet34"));
}

#[test]
fn one_deadline_holds_for_all_that_a_start_tries() {
    let seconds = Duration::from_secs;
    let pip = &catalogue::find("efficientnet-lite0").unwrap().source;
    let first = little_patience(pip, seconds(0)).unwrap();
    assert_eq!((first.first, first.whole), (LITTLE_PATIENCE[1], LONGEST_START));
    let second = little_patience(pip, seconds(3)).unwrap();
    assert_eq!((second.first, second.whole), (seconds(2), LONGEST_START - seconds(3)));
    assert!(little_patience(pip, FIRST_BYTES).is_none() && little_patience(pip, LONGEST_START).is_none());
    assert!(LITTLE_PATIENCE.iter().sum::<Duration>() < FIRST_BYTES, "what answers to none of them takes less");
}
