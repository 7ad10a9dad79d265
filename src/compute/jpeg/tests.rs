use std::{array, collections::BTreeSet, f64::consts::PI, fs, path::Path};

use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;
use crate::resize::Sample;

const SCALES: [(Scale, usize); 4] = [(Scale::Full, 1), (Scale::Half, 2), (Scale::Quarter, 4), (Scale::Eighth, 8)];

fn fixtures() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/jpeg.safetensors")).unwrap()
}

/// The fixtures' files by name.
fn files(fixtures: &SafeTensors<'_>) -> Vec<(String, Vec<u8>)> {
    let names: BTreeSet<String> =
        fixtures.names().into_iter().filter_map(|key| key.strip_suffix("/file")).map(str::to_owned).collect();
    let file = |name: &str| fixtures.tensor(&format!("{name}/file")).unwrap().data().to_vec();
    names.into_iter().map(|name| (name.clone(), file(&name))).collect()
}

fn decode(file: &[u8], scale: Scale, instructions: Instructions) -> Result<Vec<Plane<f64>>, Error> {
    let jpeg = Jpeg::open(file)?;
    let area = Area::all(jpeg.size());
    Ok(planes(jpeg.decode(scale, area, instructions)?))
}

/// The components, with samples from 0 to 255.
fn planes(components: Components) -> Vec<Plane<f64>> {
    fn real<S: Sample>(plane: Plane<S>) -> Plane<f64> {
        let Plane { samples, width, height, left, top, across, down } = plane;
        let samples = samples.into_iter().map(|sample| f64::from(sample.raw()) / f64::from(1 << S::FRACTION)).collect();
        Plane { samples, width, height, left, top, across, down }
    }
    match components {
        Components::Full(planes) => planes.into_iter().map(real).collect(),
        Components::Smaller(planes) => planes.into_iter().map(real).collect(),
    }
}

#[test]
fn samples_are_those_of_libjpeg() {
    let bytes = fixtures();
    let fixtures = SafeTensors::deserialize(&bytes).unwrap();
    let mut compared = 0;
    for (name, file) in files(&fixtures) {
        for (scale, divisor) in SCALES {
            let Ok(expected) = fixtures.tensor(&format!("{name}/{divisor}")) else { continue };
            let [height, width, components] = *expected.shape() else { panic!("{name} has three dimensions") };
            let planes = decode(&file, scale, Instructions::Detected).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            assert_eq!(planes.len(), components, "{name}");
            for (component, plane) in planes.iter().enumerate() {
                if matches!(side(&file, component, scale), 2 | 4) {
                    continue;
                }
                let own = (plane.width as usize, plane.height as usize);
                assert_eq!(plane.samples.len(), own.0 * own.1, "{name}");
                // What libjpeg enlarges by repetition, which at other scales than this it does by interpolation.
                let times = (width.div_ceil(own.0), height.div_ceil(own.1));
                if divisor < 8 && times != (1, 1) {
                    continue;
                }
                for y in 0..height {
                    for x in 0..width {
                        let found = plane.samples[y / times.1 * own.0 + x / times.0];
                        let want = f64::from(expected.data()[(y * width + x) * components + component]);
                        // Smaller pictures have sixteenths, which libjpeg rounds away.
                        let off = if scale == Scale::Full { 0.0 } else { 0.5 + 1.0 / 32.0 };
                        assert!((found - want).abs() <= off, "{name} at 1/{divisor}, component {component}, {x}, {y}");
                    }
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 270, "{compared}");
}

/// Samples of a component along a block's side.
fn side(file: &[u8], component: usize, scale: Scale) -> usize {
    let jpeg = Jpeg::open(file).unwrap();
    let frame = jpeg.parser.frame();
    plane::side(frame, &frame.components[component], scale) as usize
}

/// The `side` x `side` samples of the lowest frequencies of a block, by the definition of the transform.
fn lowest(block: &[[f64; 8]; 8], side: usize) -> Vec<f64> {
    let wave = |points: usize, frequency: usize, at: usize| {
        let norm = if frequency == 0 { 1.0 } else { 2.0 } / points as f64;
        norm.sqrt() * (PI * (2 * at + 1) as f64 * frequency as f64 / (2 * points) as f64).cos()
    };
    let sum = |n: usize, term: &dyn Fn(usize, usize) -> f64| -> f64 {
        (0..n * n).map(|place| term(place / n, place % n)).sum()
    };
    let frequency = |v: usize, u: usize| sum(8, &|y, x| block[y][x] * wave(8, v, y) * wave(8, u, x));
    let frequencies: Vec<f64> = (0..side * side).map(|place| frequency(place / side, place % side)).collect();
    let sample = |y: usize, x: usize| {
        sum(side, &|v, u| frequencies[v * side + u] * wave(side, v, y) * wave(side, u, x)) * side as f64 / 8.0
    };
    (0..side * side).map(|place| sample(place / side, place % side)).collect()
}

#[test]
fn smaller_pictures_are_of_the_lowest_frequencies() {
    let bytes = fixtures();
    let mut compared = 0;
    for (name, file) in files(&SafeTensors::deserialize(&bytes).unwrap()) {
        let whole = decode(&file, Scale::Full, Instructions::Detected).unwrap();
        for (scale, _) in &SCALES[1..] {
            let planes = decode(&file, *scale, Instructions::Detected).unwrap();
            for (component, (plane, whole)) in planes.iter().zip(&whole).enumerate() {
                let (side, width) = (side(&file, component, *scale), whole.width as usize);
                for place in 0..(whole.height / 8 * (whole.width / 8)) as usize {
                    let (row, column) = (place / (width / 8), place % (width / 8));
                    let at = |y: usize, x: usize| whole.samples[(8 * row + y) * width + 8 * column + x];
                    let block: [[f64; 8]; 8] = array::from_fn(|y| array::from_fn(|x| at(y, x)));
                    // What was cut off at black or white is not in the samples.
                    if side == 8 || block.iter().flatten().any(|sample| matches!(sample, 0.0 | 255.0)) {
                        continue;
                    }
                    for (at, want) in lowest(&block, side).into_iter().enumerate() {
                        let (y, x) = (side * row + at / side, side * column + at % side);
                        let found = plane.samples[y * plane.width as usize + x];
                        let off = (found - want.clamp(0.0, 255.0)).abs();
                        assert!(off < 0.9, "{name}, {scale:?}, component {component}, {x}, {y}: {found}, not {want}");
                    }
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 1000, "{compared}");
}

#[test]
fn instructions_make_no_difference() {
    let bytes = fixtures();
    for (name, file) in files(&SafeTensors::deserialize(&bytes).unwrap()) {
        for (scale, divisor) in SCALES {
            let [detected, portable] =
                [Instructions::Detected, Instructions::Portable].map(|i| decode(&file, scale, i).unwrap());
            assert_eq!(detected, portable, "{name} at 1/{divisor}");
            let [detected, portable] =
                [Instructions::Detected, Instructions::Portable].map(|i| colours(&file, scale, i));
            assert_eq!(detected, portable, "colours of {name} at 1/{divisor}");
        }
    }
}

/// The raw samples of all colours. They are the same however many rows are made at once.
fn colours(file: &[u8], scale: Scale, instructions: Instructions) -> Vec<Vec<i32>> {
    fn made<S: Enlarge>(planes: &[Plane<S>], colour: Colour, instructions: Instructions) -> Vec<Vec<i32>> {
        let height = planes[0].height as usize;
        let of_rows = |rows| -> Vec<Vec<i32>> {
            let channels = channels(planes, colour, rows, instructions).unwrap();
            channels.iter().map(|samples| samples.iter().map(|sample| sample.raw()).collect()).collect()
        };
        let whole = of_rows(0..height);
        let mut joined = vec![Vec::new(); whole.len()];
        for top in (0..height).step_by(7) {
            let strip = of_rows(top..height.min(top + 7));
            joined.iter_mut().zip(strip).for_each(|(joined, strip)| joined.extend(strip));
        }
        assert_eq!(joined, whole);
        assert!(channels(planes, colour, 0..height + 1, instructions).is_none());
        whole
    }
    let jpeg = Jpeg::open(file).unwrap();
    let (colour, area) = (jpeg.colour(), Area::all(jpeg.size()));
    match jpeg.decode(scale, area, Instructions::Portable).unwrap() {
        Components::Full(planes) => made(&planes, colour, instructions),
        Components::Smaller(planes) => made(&planes, colour, instructions),
    }
}

/// The samples of `whole` where `part` is.
fn cut(whole: &Plane<f64>, part: &Plane<f64>) -> Vec<f64> {
    let rows = whole.samples.chunks_exact(whole.width as usize).skip(part.top as usize).take(part.height as usize);
    rows.flat_map(|row| &row[part.left as usize..][..part.width as usize]).copied().collect()
}

#[test]
fn a_part_is_as_it_is_in_the_whole() {
    let bytes = fixtures();
    let fixtures = SafeTensors::deserialize(&bytes).unwrap();
    for (name, file) in files(&fixtures).into_iter().filter(|(name, _)| name.contains("40x40") || !name.contains('x')) {
        let (width, height) = Jpeg::open(&file).unwrap().size();
        for (scale, divisor) in SCALES {
            let whole = decode(&file, scale, Instructions::Detected).unwrap();
            for (left, top) in [(0, 0), (9, 3), (17, 20), (width - 1, height - 1)] {
                let area = Area { left, top, right: (left + 12).min(width), bottom: height.min(top + 9) };
                let jpeg = Jpeg::open(&file).unwrap();
                let needed = jpeg.bytes_needed(scale, area);
                let part = planes(jpeg.decode(scale, area, Instructions::Detected).unwrap());
                for (part, whole) in part.iter().zip(&whole) {
                    assert_eq!(part.samples, cut(whole, part), "{name} at 1/{divisor}, {area:?}");
                    let (left, right) = (f64::from(part.left), f64::from(part.left + part.width));
                    assert!(left <= f64::from(area.left) * part.across, "{name}");
                    assert!(right >= (f64::from(area.right) * part.across).floor(), "{name}");
                }
                let size = if scale == Scale::Full { 1 } else { 2 };
                let taken: usize = part.iter().map(|p| size * p.samples.len()).sum();
                assert!(needed >= taken as u64, "{name}: {needed} < {taken}");
            }
        }
    }
}

/// Files of the same coefficients, coded in several scans with few of them kept between, and all at once.
#[test]
fn the_order_of_scans_makes_no_difference() {
    let bytes = fixtures();
    let fixtures = SafeTensors::deserialize(&bytes).unwrap();
    for name in ["best", "restarts"] {
        let [once, scans] = ["", "-progressive"].map(|kind| fixtures.tensor(&format!("{name}{kind}/file")).unwrap());
        for (scale, divisor) in SCALES {
            for (left, top, right, bottom) in [(0, 0, 40, 40), (0, 0, 9, 9), (17, 0, 40, 12), (20, 23, 31, 40)] {
                let area = Area { left, top, right, bottom };
                let [once, scans] = [once.data(), scans.data()]
                    .map(|file| Jpeg::open(file).unwrap().decode(scale, area, Instructions::Detected).unwrap());
                assert_eq!(once, scans, "{name} at 1/{divisor}, {area:?}");
            }
        }
    }
}

#[test]
fn no_more_is_kept_between_scans_than_is_needed_in_the_end() {
    let file = many_scans(800, 1);
    let jpeg = Jpeg::open(&file).unwrap();
    let all = Area::all((800, 800));
    let kept = |scale: Scale, area: Area| {
        let samples = area.pixels() / u64::from(scale.divisor()).pow(2);
        jpeg.bytes_needed(scale, area) - scale.sample_bytes() * samples
    };
    let blocks = 100 * 100;
    assert_eq!(kept(Scale::Eighth, all), 2 * blocks);
    assert_eq!(kept(Scale::Quarter, all), (2 + 2 * 4 + 8) * blocks);
    assert_eq!(kept(Scale::Half, all), (2 + 2 * 16 + 8) * blocks);
    assert_eq!(kept(Scale::Full, all), (2 + 2 * 64 + 8) * blocks);
    // Of blocks beside the area and above it the first, and which others are not zero; of those below, nothing.
    let part = Area { left: 80, top: 160, right: 160, bottom: 400 };
    assert_eq!(kept(Scale::Half, part), 2 * 16 * 10 * 30 + (2 + 8) * 100 * 50);
}

/// A file without the segments that have this marker.
fn without(marker: u8, file: &[u8]) -> Vec<u8> {
    let (mut kept, mut at) = (file[..2].to_vec(), 2);
    while file[at + 1] != 0xda {
        let end = at + 2 + usize::from(u16::from_be_bytes([file[at + 2], file[at + 3]]));
        if file[at + 1] != marker {
            kept.extend_from_slice(&file[at..end]);
        }
        at = end;
    }
    [&kept, &file[at..]].concat()
}

#[test]
fn tables_that_are_missing_are_the_standard_ones() {
    let file = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/ycck.jpg")).unwrap();
    let decode = |file: &[u8]| decode(file, Scale::Full, Instructions::Detected);
    let bare = without(0xc4, &file);
    assert_eq!(file.len() - bare.len(), 2 * (33 + 183));
    assert_eq!(decode(&bare), decode(&file));
    // Progressive files have tables of their own.
    let mut progressive = bare;
    let frame = progressive.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    progressive[frame + 1] = 0xc2;
    let scan = progressive.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
    progressive[scan + 14] = 0;
    assert_eq!(decode(&progressive), Err(Error::Damaged("a Huffman table is missing")));
}

/// A file with the frame header's marker and precision changed.
fn other_frame(marker: u8, precision: u8) -> Vec<u8> {
    let bytes = fixtures();
    let fixtures = SafeTensors::deserialize(&bytes).unwrap();
    let mut file = fixtures.tensor("444-8x8/file").unwrap().data().to_vec();
    let frame = file.windows(3).position(|w| w == [0xff, 0xc0, 0]).unwrap();
    (file[frame + 1], file[frame + 4]) = (marker, precision);
    file
}

#[test]
fn kinds_that_are_not_decoded_are_refused_by_name() {
    for (marker, precision, reason) in [
        (0xc1, 12, "12 bits a sample"),
        (0xc3, 8, "lossless coding"),
        (0xc5, 8, "hierarchical coding"),
        (0xc9, 8, "arithmetic coding"),
        (0xca, 8, "arithmetic coding"),
        (0xcb, 8, "lossless coding"),
    ] {
        assert_eq!(Jpeg::open(&other_frame(marker, precision)).unwrap_err(), Error::Unsupported(reason));
    }
    assert!(Jpeg::open(&other_frame(0xc1, 8)).is_ok());
}

#[test]
fn damage_is_an_error() {
    let bytes = fixtures();
    let fixtures = SafeTensors::deserialize(&bytes).unwrap();
    let file = |name: &str| fixtures.tensor(&format!("{name}/file")).unwrap().data().to_vec();
    let decode = |file: &[u8]| decode(file, Scale::Eighth, Instructions::Detected);

    let mut restarts = file("restarts");
    let marker = restarts.windows(2).position(|w| w == [0xff, 0xd1]).unwrap();
    restarts[marker + 1] = 0xd3;
    assert_eq!(decode(&restarts), Err(Error::Damaged("a restart marker is missing")));
    restarts.drain(marker - 12..marker);
    restarts[marker - 11] = 0xd1;
    assert_eq!(decode(&restarts), Err(Error::Damaged("its data ends early")));

    let mut two = file("best");
    let end = two.len() - 2;
    two.drain(end - 700..end);
    assert_eq!(decode(&two), Err(Error::Damaged("its data ends early")));
    for gone in [1, 2, 3, 100] {
        let best = file("best");
        assert_eq!(decode(&best[..best.len() - gone]), Err(Error::Truncated), "{gone}");
    }
    // Nothing after its start.
    assert_eq!(Jpeg::open(&[0xff, 0xd8, 0xff, 0xd9]).unwrap_err(), Error::Damaged("it has no picture"));
    assert_eq!(Jpeg::open(&[0xff, 0xd8]).unwrap_err(), Error::Truncated);
}

#[test]
fn scans_are_limited_in_number() {
    let bytes = fixtures();
    let fixtures = SafeTensors::deserialize(&bytes).unwrap();
    let file = fixtures.tensor("progressive-444-8x8/file").unwrap().data();
    // The first scan, which is of first coefficients.
    let start = file.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
    let length = file[start + 2..].windows(2).position(|w| w[0] == 0xff && w[1] != 0).unwrap() + 2;
    let (scan, rest) = file[start..].split_at(length);
    let many = [&file[..start], &scan.repeat(300), rest].concat();
    let error = decode(&many, Scale::Full, Instructions::Detected).unwrap_err();
    assert_eq!(error, Error::Unsupported("more than 256 scans"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Files with wrong bytes are decoded or refused, in the same way with all instructions, and within the memory
    /// foreseen.
    #[test]
    fn no_damage_panics(
        file: prop::sample::Index,
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        scale in 0usize..4,
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let bytes = fixtures();
        let files = files(&SafeTensors::deserialize(&bytes).unwrap());
        let mut file = file.get(&files).1.clone();
        for (at, value) in places {
            let at = at.index(file.len());
            file[at] = value;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()).max(2));
        }
        if let Ok(jpeg) = Jpeg::open(&file) {
            let (width, height) = jpeg.size();
            prop_assume!(u64::from(width) * u64::from(height) <= 1 << 18 && width > 0 && height > 0);
            let area = Area::all((width, height));
            let (scale, needed) = (SCALES[scale].0, jpeg.bytes_needed(SCALES[scale].0, area));
            prop_assert!(needed <= 3 * 4 * (u64::from(width) + 64) * (u64::from(height) + 64));
            let detected = jpeg.decode(scale, area, Instructions::Detected).map(planes);
            prop_assert_eq!(detected, decode(&file, scale, Instructions::Portable));
        }
    }
}

/// A grey picture whose other coefficients are all zero and have one more bit in each of so many scans, of some bytes
/// each.
fn many_scans(side: u16, scans: usize) -> Vec<u8> {
    let segment =
        |marker: u8, content: &[u8]| [&[0xff, marker], &(content.len() as u16 + 2).to_be_bytes()[..], content].concat();
    let [high, low] = side.to_be_bytes();
    let blocks = usize::from(side.div_ceil(8)).pow(2);
    // The code 0 and 14 bits: no coefficients in the next 32,767 blocks.
    let bits = std::iter::repeat_n([&[0][..], &[1; 14]].concat(), blocks.div_ceil(32_767)).flatten();
    let bits: Vec<u8> = bits.chain([1; 8]).collect();
    let byte = |bits: &[u8; 8]| match bits.iter().fold(0, |byte, bit| byte << 1 | bit) {
        0xff => vec![0xff, 0],
        byte => vec![byte],
    };
    let data: Vec<u8> = bits.as_chunks().0.iter().flat_map(byte).collect();
    let table = |class: u8, symbol: u8| [&[class, 1][..], &[0; 15], &[symbol]].concat();
    let scan = [segment(0xda, &[1, 1, 0, 1, 63, 0x10]), data].concat();
    let start = [
        vec![0xff, 0xd8],
        segment(0xdb, &[&[0][..], &[1; 64]].concat()),
        segment(0xc2, &[8, high, low, high, low, 1, 1, 0x11, 0]),
        segment(0xc4, &table(0x00, 0)),
        segment(0xc4, &table(0x10, 0xe0)),
    ];
    [start.concat(), scan.repeat(scans), vec![0xff, 0xd9]].concat()
}

#[test]
fn scans_come_to_coefficients_no_more_often_than_these_have_bits() {
    let planes = decode(&many_scans(900, 14), Scale::Full, Instructions::Detected).unwrap();
    assert!(planes[0].samples.iter().all(|sample| *sample == 128.0));
    let error = decode(&many_scans(900, 256), Scale::Full, Instructions::Detected).unwrap_err();
    assert_eq!(error, Error::Unsupported("scans that come to coefficients again and again"));
}
