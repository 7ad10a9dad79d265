//! Cholesky's factor of a symmetric positive matrix, and what is solved with it.

/// The lower triangle `L` of `matrix = L Lᵀ`.
#[derive(Debug)]
pub(super) struct Cholesky {
    /// `[size][size]`, zeros above the diagonal.
    rows: Vec<f64>,
    size: usize,
}

impl Cholesky {
    /// Factors a symmetric `[size][size]` matrix, of which the lower triangle is read.
    pub(super) fn new(mut rows: Vec<f64>, size: usize) -> Self {
        let largest = (0..size).map(|i| rows[i * size + i]).fold(0.0, f64::max);
        // What rounding has left of nothing.
        let least = f64::EPSILON * largest.max(f64::MIN_POSITIVE);
        for i in 0..size {
            let (above, below) = rows.split_at_mut(i * size);
            let row = &mut below[..size];
            for (j, other) in above.chunks_exact(size).enumerate() {
                row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
            }
            row[i] = (row[i] - dot(&row[..i], &row[..i])).max(least).sqrt();
            row[i + 1..].fill(0.0);
        }
        Self { rows, size }
    }

    /// The factor's rows, `[size][size]`.
    pub(super) fn rows(&self) -> &[f64] {
        &self.rows
    }

    /// Solves `L x = vector` in place.
    pub(super) fn forward(&self, vector: &mut [f64]) {
        for (i, row) in self.rows.chunks_exact(self.size).enumerate() {
            vector[i] = (vector[i] - dot(&row[..i], &vector[..i])) / row[i];
        }
    }

    /// Solves `Lᵀ x = vector` in place.
    pub(super) fn backward(&self, vector: &mut [f64]) {
        for (i, row) in self.rows.chunks_exact(self.size).enumerate().rev() {
            let (before, value) = vector.split_at_mut(i);
            value[0] /= row[i];
            before.iter_mut().zip(row).for_each(|(before, factor)| *before -= factor * value[0]);
        }
    }
}

/// A sum of products in eight parts, which the processor's vectors take at once.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    let mut parts = [0.0; 8];
    for (a, b) in a.zip(b) {
        for (part, (a, b)) in parts.iter_mut().zip(a.iter().zip(b)) {
            *part += a * b;
        }
    }
    parts.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_what_was_multiplied() {
        const SIZE: usize = 37;
        let number = |at: usize| (at * 7919 % 101) as f64 / 50.5 - 1.0;
        let factor: Vec<f64> = (0..SIZE * SIZE)
            .map(|at| match (at / SIZE, at % SIZE) {
                (i, j) if i == j => 1.5 + number(at).abs(),
                (i, j) if i > j => number(at) / 4.0,
                _ => 0.0,
            })
            .collect();
        let product = |i: usize, j: usize| dot(&factor[i * SIZE..][..SIZE], &factor[j * SIZE..][..SIZE]);
        let matrix: Vec<f64> = (0..SIZE * SIZE).map(|at| product(at / SIZE, at % SIZE)).collect();
        let found = Cholesky::new(matrix.clone(), SIZE);
        for (found, wanted) in found.rows().iter().zip(&factor) {
            assert!((found - wanted).abs() < 1e-12, "{found} instead of {wanted}");
        }
        let solution: Vec<f64> = (0..SIZE).map(number).collect();
        let mut vector: Vec<f64> = matrix.chunks_exact(SIZE).map(|row| dot(row, &solution)).collect();
        found.forward(&mut vector);
        found.backward(&mut vector);
        for (found, wanted) in vector.iter().zip(&solution) {
            assert!((found - wanted).abs() < 1e-10, "{found} instead of {wanted}");
        }
    }
}
