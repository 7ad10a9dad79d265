//! One engine of `make bench-peers`: loads a network, then answers each line `k` on stdin with `k` times in milliseconds.
//!
//! Arguments: `kernel` or `reference`, weights, side, batch, threads.

use std::io::{BufRead, Write};
use std::time::Instant;

use candle_core::{Device, Tensor};
use clap::ValueEnum;
use imgcls::model::{
    kernel::Parallel,
    resnet::{Engine, ResNet18},
};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [engine, weights, numbers @ ..] = &arguments[..] else {
        anyhow::bail!("usage: peer kernel|reference WEIGHTS SIDE BATCH THREADS");
    };
    let numbers = numbers.iter().map(|n| n.parse()).collect::<Result<Vec<usize>, _>>()?;
    let &[side, batch, threads] = &numbers[..] else { anyhow::bail!("give side, batch and threads") };
    let engine = Engine::from_str(engine, false).map_err(anyhow::Error::msg)?;
    let start = Instant::now();
    let network =
        ResNet18::load(&candle_core::safetensors::load(weights, &Device::Cpu)?, side, engine, Parallel::one(threads))?;
    let images = Tensor::randn(0f32, 1.0, (batch, side, side, 3), &Device::Cpu)?;
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
