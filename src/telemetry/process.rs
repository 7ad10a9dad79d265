//! What every process tells of its resources, under the names that all Prometheus clients use.

use std::{fs, io};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

/// This process. Read from `/proc` at each scrape; what cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut write = |name: &str, help: &str, metric: &dyn EncodeMetric| {
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        if let Some(stat) = Stat::read() {
            let cpu = ConstCounter::new(stat.cpu_seconds);
            write("process_cpu_seconds", "User and system CPU time in seconds.", &cpu)?;
            let resident = ConstGauge::new(stat.resident_bytes);
            write("process_resident_memory_bytes", "Resident memory in bytes.", &resident)?;
            let virtual_ = ConstGauge::new(stat.virtual_bytes);
            write("process_virtual_memory_bytes", "Virtual memory in bytes.", &virtual_)?;
            let threads = ConstGauge::new(stat.threads);
            write("process_threads", "Threads of the operating system.", &threads)?;
            if let Some(boot) = boot_seconds() {
                let start = ConstGauge::new(boot + stat.started_after_boot);
                write("process_start_time_seconds", "Start of the process in seconds since 1970.", &start)?;
            }
        }
        if let Ok(open) = open_fds() {
            write("process_open_fds", "Open file descriptors.", &ConstGauge::new(open))?;
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            write("process_max_fds", "Most file descriptors that may be open.", &ConstGauge::new(most))?;
        }
        Ok(())
    }
}

/// What `/proc/self/stat` tells.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    /// In seconds.
    started_after_boot: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// Reads the line as proc(5) describes it. The name of the program, in brackets, may hold anything; field 3 is the
    /// first after it.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let seconds = |ticks: u64| ticks as f64 / clock_ticks_per_second() as f64;
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            threads: field(20)?,
            started_after_boot: seconds(field(22)?),
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_size() as u64,
        })
    }
}

/// When the machine started, in seconds since 1970.
fn boot_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn open_fds() -> io::Result<u64> {
    // One of them is the directory that is being read.
    Ok((fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let stat = Stat::parse(
            "1 (a) b (c) S 0 1 1 0 -1 4194560 1 2 3 4 150 50 6 7 20 0 9 0 300 4096 2 18446744073709551615 1 1 0 0 0",
        )
        .unwrap();
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!((stat.cpu_seconds, stat.started_after_boot), (200.0 / ticks, 300.0 / ticks));
        assert_eq!((stat.threads, stat.virtual_bytes, stat.resident_bytes), (9, 4096, 2 * page_size() as u64));
        assert_eq!(Stat::parse("1 (x) S 0"), None);
    }

    #[test]
    fn this_process_has_memory_threads_and_a_past() {
        let stat = Stat::read().unwrap();
        assert!(stat.resident_bytes > 1 << 20 && stat.threads > 0, "{stat:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let start = boot_seconds().unwrap() + stat.started_after_boot;
        assert!(start < now + 2.0 && start > now - 24.0 * 3600.0, "{start} {now}");
        assert!(open_fds().unwrap() > 2);
    }
}
