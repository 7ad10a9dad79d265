//! Files of weights as PyTorch writes them, in both of its formats.

#![allow(dead_code, reason = "unit tests use it too, and each user needs a part")]

use std::io::{Cursor, Write as _};

/// Name, shape and numbers of a tensor.
pub(crate) type Named = (String, Vec<usize>, Vec<f32>);

/// What `torch.save` writes since PyTorch 1.6: a zip archive.
pub(crate) fn archive(tensors: &[Named]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: String, bytes: &[u8]| {
        zip.start_file(name, stored).expect("an archive in memory can be written");
        zip.write_all(bytes).expect("an archive in memory can be written");
    };
    add("archive/data.pkl".to_owned(), &state_dict(tensors, false));
    add("archive/byteorder".to_owned(), b"little");
    for (at, (_, _, values)) in tensors.iter().enumerate() {
        add(format!("archive/data/{at}"), &numbers(values));
    }
    add("archive/version".to_owned(), b"3\n");
    zip.finish().expect("an archive in memory can be written").into_inner()
}

/// What it wrote before: a row of pickles, then the numbers.
pub(crate) fn pickles(tensors: &[Named]) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}(".to_vec();
    text(&mut out, "little_endian");
    out.extend(b"\x88u.");
    out.extend(state_dict(tensors, true));
    out.extend(b"\x80\x02](");
    (0..tensors.len()).for_each(|at| text(&mut out, &at.to_string()));
    out.extend(b"e.");
    for (_, _, values) in tensors {
        out.extend((values.len() as u64).to_le_bytes());
        out.extend(numbers(values));
    }
    out
}

/// The pickle of an `OrderedDict` of tensors.
fn state_dict(tensors: &[Named], old: bool) -> Vec<u8> {
    let mut out = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(".to_vec();
    for (at, (name, shape, values)) in tensors.iter().enumerate() {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, &at.to_string());
        text(&mut out, "cpu");
        integer(&mut out, values.len());
        out.extend(if old { &b"NtQK\x00("[..] } else { &b"tQK\x00("[..] });
        shape.iter().for_each(|side| integer(&mut out, *side));
        out.extend(b"t(");
        (0..shape.len()).for_each(|axis| integer(&mut out, shape[axis + 1..].iter().product()));
        out.extend(b"t\x89h\x00)RtR");
    }
    out.extend(b"u}");
    text(&mut out, "_metadata");
    out.extend(b"h\x00)Rsb.");
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn integer(out: &mut Vec<u8>, number: usize) {
    out.push(b'J');
    out.extend((number as i32).to_le_bytes());
}

fn numbers(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
