//! The service that both sides offer: its ids, its types, and our form of it.

use std::collections::BTreeMap;

use adjoin::{Rx, Tx};
use facet::Facet;
use serde::{Deserialize, Serialize};

/// The ids, as roam's side names them. Those of [`Interop`] are the same numbers, written there once more: a
/// method whose id was not pinned would be unknown.
pub(crate) mod id {
    pub(crate) const ADD: u64 = 0x1122_3344_5566_7788;
    pub(crate) const DIVIDE: u64 = 1;
    pub(crate) const ECHO: u64 = u64::MAX;
    pub(crate) const SUM: u64 = 0x0100;
    pub(crate) const COUNT: u64 = 0x0101;
    pub(crate) const SHOUT: u64 = 0x0102;
    pub(crate) const LATER: u64 = 0x0103;
    pub(crate) const GO: u64 = 0x0104;
    pub(crate) const GATHER: u64 = 0x0105;
    pub(crate) const NOTE: u64 = 0x0200;
    pub(crate) const HANG: u64 = 0x0201;
    pub(crate) const STOPPED: u64 = 0x0202;
    pub(crate) const LEN: u64 = 0x0203;
    /// Of no method.
    pub(crate) const NOBODYS: u64 = 0x0bad;
}

/// Our form of it, and what makes our client.
#[adjoin::service]
pub(crate) trait Interop {
    #[adjoin(id = 0x1122334455667788)]
    async fn add(&self, a: i32, b: i32) -> i32;
    #[adjoin(id = 1)]
    async fn divide(&self, a: i32, b: i32) -> Result<i32, MathError>;
    #[adjoin(id = 0xffffffffffffffff)]
    async fn echo(&self, shapes: Shapes) -> Shapes;
    /// Receives numbers.
    #[adjoin(id = 0x0100)]
    async fn sum(&self, numbers: Rx<u64>) -> u64;
    /// Sends numbers.
    #[adjoin(id = 0x0101)]
    async fn count(&self, upto: u32, out: Tx<u32>);
    /// Receives and sends at once.
    #[adjoin(id = 0x0102)]
    async fn shout(&self, words: Rx<String>, loud: Tx<String>);
    /// Returns a stream that says nothing before [`go`](Interop::go).
    #[adjoin(id = 0x0103)]
    async fn later(&self) -> Rx<u32>;
    #[adjoin(id = 0x0104)]
    async fn go(&self, upto: u32);
    /// Receives payloads, all of them before it answers, and says how many bytes they were.
    #[adjoin(id = 0x0105)]
    async fn gather(&self, parts: Rx<Vec<u8>>) -> u64;
    /// Says what the request's metadata has under a key.
    #[adjoin(id = 0x0200)]
    async fn note(&self, key: String) -> Vec<Noted>;
    #[adjoin(id = 0x0201)]
    async fn hang(&self);
    /// How many hanging handlers were stopped.
    #[adjoin(id = 0x0202)]
    async fn stopped(&self) -> u32;
    #[adjoin(id = 0x0203)]
    async fn len(&self, payload: Vec<u8>) -> u64;
}

/// What nobody offers.
#[adjoin::service]
pub(crate) trait Stranger {
    #[adjoin(id = 0x0bad)]
    async fn nobodys(&self) -> u32;
    #[adjoin(id = 0x0bae)]
    async fn nobodys_sum(&self, numbers: Rx<u64>) -> u64;
    /// `add` without its second argument.
    #[adjoin(id = 0x1122334455667788)]
    async fn half_an_add(&self, a: i32) -> i32;
}

/// The error of a method, the same type for both sides' encoders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Facet)]
#[repr(u8)]
pub(crate) enum MathError {
    Overflow,
    DividedByZero { dividend: i32 },
}

/// A value of metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Facet)]
#[repr(u8)]
pub(crate) enum Noted {
    String(String),
    Bytes(Vec<u8>),
    U64(u64),
}

/// Something of every shape: our encoder is postcard over serde, roam's is its own over facet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Facet)]
pub(crate) struct Shapes {
    pub(crate) yes: bool,
    pub(crate) small: (u8, i8, u16, i16),
    pub(crate) large: (u32, i32, u64, i64),
    pub(crate) huge: (u128, i128),
    pub(crate) real: (f32, f64),
    pub(crate) letter: char,
    pub(crate) text: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) unit: (),
    pub(crate) some: Option<Box<u32>>,
    pub(crate) none: Option<u32>,
    /// Not of lists or options: roam 0.6 walks a list with the wrong stride where its elements are generic.
    pub(crate) list: Vec<i16>,
    pub(crate) by_name: BTreeMap<String, u64>,
    pub(crate) array: [u16; 3],
    pub(crate) variants: Vec<Variant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Facet)]
#[repr(u8)]
pub(crate) enum Variant {
    Unit,
    Newtype(String),
    Tuple(u8, i64),
    Struct { inner: Option<Box<Variant>>, flag: bool },
}

impl Shapes {
    /// Values at the ends of their ranges, and zeros.
    pub(crate) fn extremes() -> Self {
        Shapes {
            yes: true,
            small: (u8::MAX, i8::MIN, u16::MAX, i16::MIN),
            large: (u32::MAX, i32::MIN, u64::MAX, i64::MIN),
            huge: (u128::MAX, i128::MIN),
            real: (f32::MIN_POSITIVE, -0.1),
            letter: '\u{10ffff}',
            text: "zero \0, and ünïcode".into(),
            bytes: (0..=255).collect(),
            unit: (),
            some: Some(Box::new(0)),
            none: None,
            list: vec![0, -1, i16::MAX],
            by_name: BTreeMap::from([("a".into(), 0), (String::new(), u64::MAX)]),
            array: [0, 127, 128],
            variants: vec![
                Variant::Unit,
                Variant::Newtype("n".into()),
                Variant::Tuple(0, -1),
                Variant::Struct { inner: Some(Box::new(Variant::Unit)), flag: false },
            ],
        }
    }
}
