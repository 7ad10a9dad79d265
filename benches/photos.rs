//! The decoding side of `make bench-pipeline`: reads photos, then answers each line on stdin with the milliseconds that
//! making the network's input of all of them took, on one thread.
//!
//! Arguments: shorter side after the resize, side of the input, files.

use std::io::{BufRead, Write};
use std::time::Instant;

use imgcls::model::{Bundle, Detail, Limits, Preprocessor};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [resize, side, files @ ..] = &arguments[..] else { anyhow::bail!("usage: photos RESIZE SIDE FILE…") };
    let mut card = Bundle::embedded()?.card;
    (card.resize, card.input) = (resize.parse()?, side.parse()?);
    let (preprocessor, limits) = (Preprocessor::new(&card), Limits::default());
    let photos = files.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    println!("READY");
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        for photo in &photos {
            std::hint::black_box(preprocessor.prepare(photo, &limits, Detail::Enough)?);
        }
        println!("{:.4}", start.elapsed().as_secs_f64() * 1e3);
        std::io::stdout().flush()?;
    }
    Ok(())
}
