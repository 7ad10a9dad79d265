//! One engine of `make bench-peers`: loads a network, then answers each line `k` on stdin with `k` times in
//! milliseconds.
//!
//! Arguments: `kernel` or `reference`, architecture, weights, side, batch, threads.

use std::io::{BufRead, Write};
use std::time::Instant;

use candle_core::Device;
use clap::ValueEnum;
use imgcls::model::{
    Architecture, Engine,
    kernel::{Parallel, bench},
    network::Network,
};

/// Of ImageNet.
const CLASSES: usize = 1000;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [engine, architecture, weights, numbers @ ..] = &arguments[..] else {
        anyhow::bail!("usage: peer kernel|reference ARCHITECTURE WEIGHTS SIDE BATCH THREADS");
    };
    let numbers = numbers.iter().map(|n| n.parse()).collect::<Result<Vec<usize>, _>>()?;
    let &[side, batch, threads] = &numbers[..] else { anyhow::bail!("give side, batch and threads") };
    let engine = Engine::from_str(engine, false).map_err(anyhow::Error::msg)?;
    let Some(architecture) = Architecture::ALL.into_iter().find(|known| known.name() == architecture) else {
        anyhow::bail!("there is no architecture {architecture}");
    };
    let start = Instant::now();
    let weights = candle_core::safetensors::load(weights, &Device::Cpu)?;
    let network = Network::load(&architecture.network(CLASSES), &weights, side, engine, Parallel::one(threads))?;
    let images = bench::noise(batch * side * side * 3, 1);
    let loaded = start.elapsed();
    network.forward(&images)?;
    eprintln!("loaded in {loaded:?}, first call after {:?}", start.elapsed() - loaded);
    for _ in 0..2 {
        network.forward(&images)?;
    }
    println!("READY");
    for line in std::io::stdin().lock().lines() {
        let times = (0..line?.trim().parse()?)
            .map(|_| {
                let start = Instant::now();
                std::hint::black_box(network.forward(&images)?);
                Ok(format!("{:.4}", start.elapsed().as_secs_f64() * 1e3))
            })
            .collect::<anyhow::Result<Vec<String>>>()?;
        println!("{}", times.join(" "));
        std::io::stdout().flush()?;
    }
    Ok(())
}
