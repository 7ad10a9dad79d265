//! Whole layers and networks against plain definitions and candle's reference.

mod layers;
mod networks;
