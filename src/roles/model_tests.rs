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
