//! Whole layers and networks against plain definitions.

mod definition;
mod layers;
mod networks;
mod parts;
