use std::{fs, ops::Range, path::Path};

use proptest::prelude::*;
use safetensors::SafeTensors;

use super::{filter::by_distance, *};

/// Samples row by row.
struct Grey<S> {
    samples: Vec<S>,
    width: usize,
}

impl<S: Sample> Rows<S> for Grey<S> {
    fn row(&self, y: usize, columns: Range<usize>) -> impl Iterator<Item = S> {
        self.samples[y * self.width..][columns].iter().copied()
    }
}

/// What Pillow makes of a picture; `tests/fixtures/make_resize.py` tells how it is made.
#[test]
fn samples_are_those_of_pillow() {
    let bytes =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/resize.safetensors")).unwrap();
    let fixtures = SafeTensors::deserialize(&bytes).unwrap();
    let picture = fixtures.tensor("picture").unwrap();
    let [height, width] = *picture.shape() else { panic!("a picture has two dimensions") };
    let grey = Grey { samples: picture.data().to_vec(), width };
    let mut compared = 0;
    for (key, want) in fixtures.iter().filter(|(key, _)| *key != "picture") {
        let [filter, left, top, right, bottom, _] = key.split('/').collect::<Vec<_>>().try_into().unwrap();
        let filter = if filter == "triangle" { Filter::Triangle } else { Filter::CatmullRom };
        let [left, top, right, bottom] = [left, top, right, bottom].map(|edge| edge.parse::<f64>().unwrap());
        let columns = Part { start: left, length: right - left, to: want.shape()[1] };
        let rows = Part { start: top, length: bottom - top, to: want.shape()[0] };
        let columns = Weights::new(filter, columns, width).unwrap();
        let rows = Weights::new(filter, rows, height).unwrap();
        assert_eq!(resize(&grey, &columns, &rows), want.data(), "{key}");
        compared += 1;
    }
    assert_eq!(compared, 16);
}

/// What each sample is by definition.
fn by_definition(grey: &[f64], (width, height): (usize, usize), filter: Filter, parts: [Part; 2]) -> Vec<f64> {
    let sum = |part: Part, at: usize, size: usize, sample: &dyn Fn(usize) -> f64| -> f64 {
        let (first, weights) = by_distance(filter, part, at, size).unwrap();
        weights.iter().enumerate().map(|(i, weight)| weight * sample(first + i)).sum()
    };
    let [columns, rows] = parts;
    let made = |y, x| sum(rows, y, height, &|j| sum(columns, x, width, &|i| grey[j * width + i]));
    (0..columns.to * rows.to).map(|at| made(at / columns.to, at % columns.to)).collect()
}

/// A side, and a part of it.
fn parts() -> impl Strategy<Value = (usize, Part)> {
    (1usize..70, 0.0..1.0f64, 0.0..1.0f64, 1usize..40).prop_map(|(size, start, length, to)| {
        let start = start * size as f64 * 0.9;
        (size, Part { start, length: (size as f64 - start) * length.max(0.01), to })
    })
}

proptest! {
    #[test]
    fn rows_that_come_little_by_little_make_the_same(
        (width, columns) in parts(), (height, rows) in parts(), strip in 1usize..40,
    ) {
        let samples: Vec<u8> = (0..width * height).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        let columns = Weights::<u8>::new(Filter::Triangle, columns, width).unwrap();
        let rows = Weights::<u8>::new(Filter::Triangle, rows, height).unwrap();
        let mut resized = Resize::new(&columns, &rows);
        let read = rows.reads();
        for top in read.clone().step_by(strip) {
            let taken = strip.min(read.end - top);
            let of_strip = Grey { samples: samples[top * width..][..taken * width].to_vec(), width };
            resized.take(&of_strip, 0..taken, top);
        }
        prop_assert_eq!(resized.finish(), resize(&Grey { samples, width }, &columns, &rows));
    }

    #[test]
    fn sums_are_those_of_the_definition(
        (width, columns) in parts(), (height, rows) in parts(), seed in any::<u32>(),
    ) {
        let filter = Filter::Triangle;
        let noise = |at: usize| (at as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 16;
        let bytes: Vec<u8> = (0..width * height).map(|at| noise(at) as u8).collect();
        let fine: Vec<Fine> = (0..width * height).map(|at| Fine((noise(at) % 4081) as u16)).collect();
        let real = |raw: Vec<i32>, unit: f64| -> Vec<f64> { raw.into_iter().map(|v| f64::from(v) / unit).collect() };
        let of_bytes = real(bytes.iter().map(|v| v.raw()).collect(), 1.0);
        let of_fine = real(fine.iter().map(|v| v.raw()).collect(), 16.0);

        let weights = Weights::new(filter, columns, width).unwrap();
        let found = resize(&Grey { samples: bytes, width }, &weights, &Weights::new(filter, rows, height).unwrap());
        let want = by_definition(&of_bytes, (width, height), filter, [columns, rows]);
        for (found, want) in found.iter().zip(&want) {
            // Rounded twice.
            prop_assert!((f64::from(*found) - want).abs() < 1.01);
        }
        let weights = Weights::new(filter, columns, width).unwrap();
        let found = resize(&Grey { samples: fine, width }, &weights, &Weights::new(filter, rows, height).unwrap());
        for (found, want) in found.iter().zip(by_definition(&of_fine, (width, height), filter, [columns, rows])) {
            prop_assert!((f64::from(*found) - want).abs() < 0.55);
        }
    }

    #[test]
    fn instructions_make_no_difference((width, columns) in parts(), height in 1usize..40, seed in any::<u32>()) {
        let samples = (0..width * height).map(|at| (at as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) as u8);
        let grey = Grey { samples: samples.collect(), width };
        let weights = Weights::new(Filter::CatmullRom, columns, width).unwrap();
        let [mut found, mut want] = [vec![0u8; columns.to * height], vec![0u8; columns.to * height]];
        pass(&grey, 0..height, &weights, &mut found, height);
        super::pass::portable(&grey, 0..height, &weights, &mut want, height);
        prop_assert_eq!(found, want);
    }
}

/// Of pictures that are smooth as photos are, pixels that are estimated make nearer resizes than samples that are taken
/// for points.
#[test]
fn estimates_are_nearer_than_points() {
    const PIXELS: usize = 1600;
    let mut state = 7u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24) - 0.5
    };
    let mut value = 0.0;
    let pixels: Vec<f64> = (0..PIXELS)
        .map(|_| {
            value = 0.97 * value + 12.0 * noise();
            128.0 + value
        })
        .collect();
    for per_block in [1, 2, 4] {
        let samples = smaller::samples(per_block);
        let of_block = |block: &[f64]| {
            let sum = |parts: &[f64; 8]| parts.iter().zip(block).map(|(part, pixel)| part * pixel).sum::<f64>();
            samples.iter().map(sum).map(|value| Fine::nearest((value * 16.0).round() as i32)).collect::<Vec<_>>()
        };
        let smaller: Vec<Fine> = pixels.chunks_exact(8).flat_map(of_block).collect();
        let count = smaller.len();
        let grey = Grey { samples: smaller, width: count };
        let part = Part { start: 12.5, length: 1550.0, to: 1550 * per_block / 8 * 4 / 9 };
        let ratio = count as f64 / PIXELS as f64;
        let points = Part { start: part.start * ratio, length: part.length * ratio, ..part };
        let side = Smaller { per_block, pixels: PIXELS, first: 0, count };
        let off = |weights: Weights<Fine>| -> f64 {
            let mut made = vec![0u8; part.to];
            pass(&grey, 0..1, &weights, &mut made, 1);
            let want =
                by_definition(&pixels, (PIXELS, 1), Filter::Triangle, [part, Part { start: 0.0, length: 1.0, to: 1 }]);
            made.iter().zip(want).map(|(made, want)| (f64::from(*made) - want).powi(2)).sum::<f64>() / part.to as f64
        };
        let estimated = off(Weights::of_smaller(Filter::Triangle, part, side).unwrap());
        let points = off(Weights::new(Filter::Triangle, points, count).unwrap());
        // The square of what is rounded to whole numbers is 1/12 on average.
        let rounded = 1.0 / 12.0;
        assert!(estimated - rounded < 0.7 * (points - rounded), "{per_block}: {estimated}, {points}");
    }
}

/// Whatever the samples around it are.
#[test]
fn an_even_surface_stays_as_it_is() {
    for per_block in [1, 2, 4] {
        for estimate in smaller::estimates(per_block) {
            assert!((estimate.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        // Beyond the edge is what is at the edge.
        let side = Smaller { per_block, pixels: 75, first: 0, count: (75 * per_block).div_ceil(8) };
        let weights =
            Weights::<Fine>::of_smaller(Filter::Triangle, Part { start: 0.0, length: 75.0, to: 7 }, side).unwrap();
        let mut made = [0u8; 7];
        pass(&Grey { samples: vec![Fine(77 * 16); side.count], width: side.count }, 0..1, &weights, &mut made, 1);
        assert_eq!(made, [77; 7]);
    }
}
