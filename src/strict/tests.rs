use std::{cell::Cell, collections::BTreeMap, fmt::Debug, marker::PhantomData, thread};

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
};
use serde::{
    Deserialize, Serialize, Serializer,
    de::{DeserializeOwned, IgnoredAny},
};

use super::*;

/// Everything that serde's data model has, but for sequences of what takes no bytes and maps that sort.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Everything {
    unsigned: (u8, u16, u32, u64, u128),
    signed: (i8, i16, i32, i64, i128),
    floats: [f64; 2],
    small: f32,
    yes: bool,
    letter: char,
    text: String,
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
    option: Option<Option<u32>>,
    unit: (),
    nothing: Nothing,
    newtype: Newtype,
    pair: Pair,
    shapes: Vec<Shape>,
    entries: Entries<String, Vec<u16>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Nothing;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Newtype(i32);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pair(u64, Option<char>);

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Shape {
    Unit,
    Newtype(Box<Shape>),
    Tuple(u16, String),
    Struct { numbers: Vec<u64>, flags: Vec<bool> },
}

/// A map that keeps the order of its entries, and keys that stand twice.
#[derive(Clone, Debug)]
struct Entries<K, V>(Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for Entries<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de, K: Deserialize<'de>, V: Deserialize<'de>> Deserialize<'de> for Entries<K, V> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct InOrder<K, V>(PhantomData<(K, V)>);
        impl<'de, K: Deserialize<'de>, V: Deserialize<'de>> Visitor<'de> for InOrder<K, V> {
            type Value = Entries<K, V>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

/// Integers of all lengths.
fn integer() -> impl Strategy<Value = u128> {
    prop_oneof![0..300u128, any::<u128>(), (0..128u32).prop_map(|bit| 1 << bit), Just(u128::MAX)]
}

fn shape() -> impl Strategy<Value = Shape> {
    let leaf = prop_oneof![
        Just(Shape::Unit),
        (integer(), any::<String>()).prop_map(|(number, text)| Shape::Tuple(number as u16, text)),
        (vec(integer(), 0..5), vec(any::<bool>(), 0..5)).prop_map(|(numbers, flags)| Shape::Struct {
            numbers: numbers.into_iter().map(|number| number as u64).collect(),
            flags
        }),
    ];
    leaf.prop_recursive(4, 4, 1, |inner| inner.prop_map(|inner| Shape::Newtype(Box::new(inner))))
}

fn everything() -> impl Strategy<Value = Everything> {
    let numbers = (vec(integer(), 12), any::<[f64; 2]>(), any::<f32>());
    let plain = (any::<bool>(), any::<char>(), any::<String>(), vec(any::<u8>(), 0..200));
    let entries = vec((any::<String>(), vec(any::<u16>(), 0..3)), 0..3);
    let options = (any::<Option<Option<u32>>>(), any::<Option<char>>());
    (numbers, plain, options, vec(shape(), 0..4), entries).prop_map(
        |((n, floats, small), (yes, letter, text, bytes), (option, pair), shapes, entries)| Everything {
            unsigned: (n[0] as u8, n[1] as u16, n[2] as u32, n[3] as u64, n[4]),
            signed: (n[5] as i8, n[6] as i16, n[7] as i32, n[8] as i64, n[9] as i128),
            floats,
            small,
            yes,
            letter,
            text,
            bytes,
            option,
            unit: (),
            nothing: Nothing,
            newtype: Newtype(n[10] as i32),
            pair: Pair(n[11] as u64, pair),
            shapes,
            entries: Entries(entries),
        },
    )
}

fn postcard(value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, Vec::new()).expect("a Vec takes everything")
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    decode(bytes, NESTING)
}

/// What is wrong with bytes as a value.
fn refused<T: DeserializeOwned + Debug>(bytes: &[u8]) -> DecodeError {
    read::<T>(bytes).expect_err("the bytes are refused")
}

/// Compares with postcard's own reader: what is read is what that reads, and is read if and only if its encoding is
/// these bytes.
fn compare<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) -> Result<(), TestCaseError> {
    let canonical = postcard::take_from_bytes::<T>(bytes)
        .is_ok_and(|(value, rest)| rest.is_empty() && postcard(&value) == bytes);
    match read::<T>(bytes) {
        Ok(value) => {
            prop_assert_eq!(postcard(&value), bytes);
            prop_assert!(canonical);
        }
        Err(error) => prop_assert!(!canonical, "{}", error),
    }
    Ok(())
}

/// A change of bytes, somewhere.
#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let byte = || prop_oneof![Just(0), Just(0x80), Just(2), any::<u8>()];
    let change = prop_oneof![
        (any::<usize>(), byte()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<usize>(), byte()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        any::<usize>().prop_map(Change::Remove),
    ];
    vec(change, 1..4)
}

fn change(bytes: &mut Vec<u8>, change: &Change) {
    match *change {
        Change::Set(at, byte) if !bytes.is_empty() => {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        Change::Remove(at) if !bytes.is_empty() => drop(bytes.remove(at % bytes.len())),
        Change::Insert(at, byte) => bytes.insert(at % (bytes.len() + 1), byte),
        _ => {}
    }
}

proptest! {
    #[test]
    fn what_postcard_writes_is_read_and_nothing_less_or_more_of_it(value in everything()) {
        let mut bytes = postcard(&value);
        let back = read::<Everything>(&bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(postcard(&back), &bytes[..]);
        for end in 0..bytes.len() {
            prop_assert!(read::<Everything>(&bytes[..end]).is_err(), "{} of {} bytes", end, bytes.len());
        }
        bytes.push(0);
        prop_assert_eq!(refused::<Everything>(&bytes), DecodeError::Trailing { left: 1 });
    }

    #[test]
    fn maps_that_sort_are_read_as_postcard_writes_them(
        map in btree_map(any::<u32>(), btree_map(any::<String>(), any::<Option<i64>>(), 0..5), 0..5),
    ) {
        prop_assert_eq!(read::<BTreeMap<u32, BTreeMap<String, Option<i64>>>>(&postcard(&map)), Ok(map));
    }

    #[test]
    fn changed_bytes_are_read_only_if_they_are_the_encoding_of_a_value(
        value in everything(),
        changes in changes(),
    ) {
        let mut bytes = postcard(&value);
        changes.iter().for_each(|each| change(&mut bytes, each));
        compare::<Everything>(&bytes)?;
    }

    #[test]
    fn random_bytes_are_read_only_if_they_are_the_encoding_of_a_value(
        bytes in vec(prop_oneof![0..5u8, Just(0x80), any::<u8>()], 0..40),
    ) {
        compare::<u16>(&bytes)?;
        compare::<i32>(&bytes)?;
        compare::<u64>(&bytes)?;
        compare::<i128>(&bytes)?;
        compare::<(bool, char)>(&bytes)?;
        compare::<Option<(f32, i8)>>(&bytes)?;
        compare::<String>(&bytes)?;
        compare::<serde_bytes::ByteBuf>(&bytes)?;
        compare::<Vec<Vec<u32>>>(&bytes)?;
        compare::<Shape>(&bytes)?;
        compare::<Vec<Shape>>(&bytes)?;
        compare::<Entries<Option<bool>, Pair>>(&bytes)?;
        compare::<Everything>(&bytes)?;
    }

    #[test]
    fn room_and_turns_are_bounded_by_the_bytes(bytes in vec(prop_oneof![0..4u8, any::<u8>()], 0..300)) {
        let reserved = |decode: &dyn Fn(&[u8])| {
            RESERVED.set(0);
            TURNS.set(0);
            decode(&bytes);
            (RESERVED.get(), TURNS.get())
        };
        for (room, turns) in [
            reserved(&|bytes| drop(read::<Counting<Counting<u8>>>(bytes))),
            reserved(&|bytes| drop(read::<Counting<Counting<()>>>(bytes))),
            reserved(&|bytes| drop(read::<(Counting<u64>, Counting<Nothing>)>(bytes))),
            reserved(&|bytes| drop(read::<Branch>(bytes))),
        ] {
            prop_assert!(room <= bytes.len(), "room for {} elements", room);
            prop_assert!(turns <= bytes.len() + EMPTY_ELEMENTS, "{} turns", turns);
        }
    }
}

thread_local! {
    /// Elements that room was made for.
    static RESERVED: Cell<usize> = const { Cell::new(0) };
    /// Elements that were asked for, and were there.
    static TURNS: Cell<usize> = const { Cell::new(0) };
}

/// A sequence that believes what it is told of its length, and goes on after an error: the worst that there is.
#[derive(Debug)]
struct Counting<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Counting<T> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Count<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Count<T> {
            type Value = Counting<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a sequence")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Self::Value, A::Error> {
                RESERVED.set(RESERVED.get() + seq.size_hint().unwrap_or_default());
                while !matches!(seq.next_element::<T>(), Ok(None)) {
                    TURNS.set(TURNS.get() + 1);
                }
                Ok(Counting(PhantomData))
            }
        }
        deserializer.deserialize_seq(Count(PhantomData))
    }
}

/// A tree whose nodes are such sequences.
#[derive(Debug, Deserialize)]
enum Branch {
    Node(Counting<Branch>),
}

/// A varint of so many bytes, zeroes in front included.
fn varint(mut value: u128, bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for index in 0..bytes {
        let more = if index + 1 < bytes { 0x80 } else { 0 };
        out.push((value & 0x7f) as u8 | more);
        value >>= 7;
    }
    out
}

#[test]
fn an_integer_of_any_width_that_is_not_in_its_shortest_form_is_refused() {
    macro_rules! refuse {
        ($($type:ty: $longest:literal)*) => { $(
            for length in 2..=$longest {
                // The largest that takes one byte less, and zero.
                for value in [(1 << (7 * (length - 1))) - 1, 0] {
                    let wrong = refused::<$type>(&varint(value, length));
                    assert_eq!(wrong, DecodeError::Overlong, "{value} in {length} bytes");
                }
            }
        )* };
    }
    refuse! { u16: 3 u32: 5 u64: 10 usize: 10 u128: 19 i16: 3 i32: 5 i64: 10 isize: 10 i128: 19 }
    assert_eq!(read::<u16>(&[0x80, 1]), Ok(128));
    assert_eq!(read::<u64>(&varint(1 << 63, 10)), Ok(1 << 63));
    assert_eq!(read::<u128>(&varint(1 << 127, 19)), Ok(1 << 127));
}

#[test]
fn an_integer_that_its_type_cannot_hold_is_refused() {
    assert_eq!(refused::<u16>(&varint(1 << 16, 3)), DecodeError::Overflow);
    assert_eq!(refused::<i16>(&varint(1 << 21, 4)), DecodeError::Overflow);
    assert_eq!(refused::<u32>(&varint(1 << 32, 5)), DecodeError::Overflow);
    assert_eq!(refused::<i32>(&varint(1 << 35, 6)), DecodeError::Overflow);
    assert_eq!(refused::<u64>(&varint(1 << 64, 10)), DecodeError::Overflow);
    assert_eq!(refused::<i64>(&varint(1 << 70, 11)), DecodeError::Overflow);
    let mut wide = [0xff; 19];
    wide[18] = 4; // bit 128
    assert_eq!(refused::<u128>(&wide), DecodeError::Overflow);
    assert_eq!(refused::<i128>(&[0xff; 30]), DecodeError::Overflow);
    assert_eq!(refused::<u64>(&[0xff; 9]), DecodeError::End);
}

#[test]
fn lengths_counts_and_discriminants_stand_in_their_shortest_form_too() {
    assert_eq!(refused::<String>(&[0x81, 0, b'a']), DecodeError::Overlong);
    assert_eq!(refused::<char>(&[0x81, 0, b'a']), DecodeError::Overlong);
    assert_eq!(refused::<serde_bytes::ByteBuf>(&[0x80, 0]), DecodeError::Overlong);
    assert_eq!(refused::<Vec<u8>>(&[0x80, 0]), DecodeError::Overlong);
    assert_eq!(refused::<BTreeMap<u8, u8>>(&[0x80, 0]), DecodeError::Overlong);
    assert_eq!(refused::<Shape>(&[0x80, 0]), DecodeError::Overlong);
}

#[test]
fn a_bool_that_is_neither_is_refused() {
    assert_eq!(refused::<bool>(&[2]), DecodeError::Bool { found: 2 });
    assert_eq!(refused::<bool>(&[0xff]), DecodeError::Bool { found: 0xff });
}

#[test]
fn an_option_that_is_neither_is_refused() {
    assert_eq!(refused::<Option<u8>>(&[2, 0]), DecodeError::Option { found: 2 });
}

#[test]
fn a_char_that_is_not_one_character_is_refused() {
    let surrogate = [3, 0xed, 0xa0, 0x80];
    let beyond_unicode = [4, 0xf4, 0x90, 0x80, 0x80];
    let overlong = [2, 0xc1, 0xa1];
    for bytes in [&surrogate[..], &beyond_unicode, &overlong, &[0], &[2, b'a', b'b'], &[5, 0, 0, 0, 0, 0]] {
        assert_eq!(refused::<char>(bytes), DecodeError::Char, "{bytes:?}");
    }
    assert_eq!(read::<char>(&[4, 0xf4, 0x8f, 0xbf, 0xbf]), Ok(char::MAX));
}

#[test]
fn a_string_that_is_not_utf_8_is_refused() {
    assert_eq!(refused::<String>(&[2, 0xc3, 0x28]), DecodeError::Utf8);
    assert_eq!(decode::<&str>(&[1, 0xff], NESTING), Err(DecodeError::Utf8));
}

#[test]
fn a_discriminant_that_an_enum_does_not_have_is_refused() {
    let wrong = refused::<Shape>(&[4]);
    assert!(matches!(&wrong, DecodeError::Refused { message } if message.contains('4')), "{wrong}");
    assert!(matches!(refused::<Shape>(&varint(u32::MAX.into(), 5)), DecodeError::Refused { .. }));
    assert_eq!(refused::<Shape>(&varint(1 << 32, 5)), DecodeError::Overflow);
}

#[test]
fn a_length_beyond_the_bytes_is_refused() {
    assert_eq!(refused::<String>(&[3, b'a', b'b']), DecodeError::Length { length: 3 });
    let most = varint(u64::MAX.into(), 10);
    assert_eq!(refused::<serde_bytes::ByteBuf>(&most), DecodeError::Length { length: u64::MAX });
}

#[test]
fn a_count_beyond_the_bytes_is_refused_before_room_is_made() {
    RESERVED.set(0);
    TURNS.set(0);
    let most = varint(u64::MAX.into(), 10);
    assert_eq!(refused::<Counting<u64>>(&most), DecodeError::Count { count: u64::MAX });
    assert_eq!(refused::<Vec<u64>>(&most), DecodeError::Count { count: u64::MAX });
    assert_eq!(refused::<BTreeMap<u8, u8>>(&most), DecodeError::Count { count: u64::MAX });
    assert_eq!(TURNS.get(), 0);
    // A few more than there are could be of no bytes: that they are not is found out on the way.
    assert_eq!(refused::<Vec<u64>>(&[4, 1, 1, 1]), DecodeError::End);
    let _ = read::<Counting<u64>>(&[4, 1, 1, 1]);
    assert_eq!(RESERVED.get(), 0);
}

#[test]
fn counts_that_exceed_the_bytes_only_together_are_refused_before_room_is_made() {
    // Each within the bytes that are there, one in the other.
    let mut bytes = [0, 100].repeat(100);
    bytes.resize(300, 0);
    RESERVED.set(0);
    let _ = read::<Branch>(&bytes);
    assert!(RESERVED.get() <= bytes.len(), "room for {} elements", RESERVED.get());
}

#[test]
fn an_absurd_count_of_units_is_refused() {
    let absurd = varint(1 << 60, 9);
    assert_eq!(refused::<Vec<()>>(&absurd), DecodeError::Count { count: 1 << 60 });
    assert_eq!(refused::<Vec<[Nothing; 2]>>(&absurd), DecodeError::Count { count: 1 << 60 });
    assert_eq!(refused::<Entries<(), ()>>(&absurd), DecodeError::Count { count: 1 << 60 });
}

#[test]
fn as_many_units_as_are_allowed_are_read_and_one_more_is_refused() {
    let most = EMPTY_ELEMENTS + 3; // three bytes
    let bytes = varint(most as u128, 3);
    assert_eq!(read::<Vec<()>>(&bytes).map(|units| units.len()), Ok(most));
    let above = most as u64 + 1;
    assert_eq!(refused::<Vec<()>>(&varint(above.into(), 3)), DecodeError::Count { count: above });
    // Together, too: five bytes, and one unit more than is allowed.
    let two = [bytes, varint(3, 1), varint(0, 1)].concat();
    assert_eq!(refused::<(Vec<()>, Vec<()>, u8)>(&two), DecodeError::Count { count: 3 });
}

#[test]
fn what_a_value_needs_room_for_is_told_exactly() {
    let numbers = read::<Vec<u64>>(&postcard(&(0..1000u64).collect::<Vec<_>>())).unwrap();
    assert_eq!((numbers.len(), numbers.capacity()), (1000, 1000));
    let bytes = read::<serde_bytes::ByteBuf>(&postcard(&vec![7u8; 100])).unwrap().into_vec();
    assert_eq!((bytes.len(), bytes.capacity()), (100, 100));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Node(Box<Tree>),
}

/// A leaf below so many nodes: one level more.
fn tree(nodes: usize) -> Vec<u8> {
    let mut bytes = vec![1; nodes];
    bytes.push(0);
    bytes
}

#[test]
fn values_are_read_down_to_the_limit_of_nesting_and_no_deeper() {
    let limit = NESTING as usize;
    assert_eq!(postcard(&read::<Tree>(&tree(limit - 1)).unwrap()), tree(limit - 1));
    assert_eq!(refused::<Tree>(&tree(limit)), DecodeError::Nesting { limit: NESTING });
    assert_eq!(decode::<Tree>(&tree(2), 2), Err(DecodeError::Nesting { limit: 2 }));
    assert!(decode::<Tree>(&tree(2), 3).is_ok());
}

#[test]
fn each_kind_of_value_that_holds_others_is_one_level() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Named {
        inner: u8,
    }
    fn one_level<T: Serialize + DeserializeOwned + Debug>(value: T) {
        let bytes = postcard(&value);
        assert!(decode::<T>(&bytes, 1).is_ok(), "{value:?}");
        let wrong = decode::<T>(&bytes, 0).expect_err("it is too deep");
        assert_eq!(wrong, DecodeError::Nesting { limit: 0 }, "{value:?}");
    }
    one_level(vec![1u8]);
    one_level(BTreeMap::from([(1u8, 1u8)]));
    one_level(Some(1u8));
    one_level(Named { inner: 1 });
    one_level(Newtype(1));
    one_level((1u8, 2u8));
    one_level([1u8; 3]);
    one_level(Pair(1, None));
    one_level(Shape::Unit);
    one_level(Shape::Tuple(1, String::new()));
    assert!(decode::<Option<u8>>(&[0], 0).is_ok());
    assert!(decode::<String>(&[1, b'a'], 0).is_ok());
    assert!(decode::<Nothing>(&[], 0).is_ok());
}

#[test]
fn values_side_by_side_are_on_the_same_level() {
    let rows = vec![vec![Some(1u8); 50]; 50];
    assert_eq!(decode::<Vec<Vec<Option<u8>>>>(&postcard(&rows), 3), Ok(rows));
}

/// A thread of the size that a runtime gives its own.
fn on_a_small_stack<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap()
}

#[test]
fn a_million_levels_are_refused_on_a_small_stack() {
    let wrong = on_a_small_stack(|| refused::<Tree>(&tree(1_000_000)));
    assert_eq!(wrong, DecodeError::Nesting { limit: NESTING });

    /// Recursive by sequences and by maps.
    #[derive(Debug, Deserialize)]
    struct Wide {
        #[expect(dead_code, reason = "what it holds is not looked at")]
        inner: BTreeMap<u8, Vec<Wide>>,
    }
    let wrong = on_a_small_stack(|| refused::<Wide>(&[1; 3_000_000]));
    assert_eq!(wrong, DecodeError::Nesting { limit: NESTING });
}

/// It has no value, but bytes can claim one.
#[test]
fn a_type_that_holds_itself_and_nothing_else_is_refused() {
    #[derive(Debug, Deserialize)]
    struct Endless(#[expect(dead_code, reason = "there is none")] Box<Endless>);
    assert_eq!(on_a_small_stack(|| refused::<Endless>(&[])), DecodeError::Nesting { limit: NESTING });
}

#[test]
fn a_byte_behind_the_value_is_refused() {
    assert_eq!(refused::<u8>(&[1, 2]), DecodeError::Trailing { left: 1 });
    assert_eq!(refused::<()>(&[0]), DecodeError::Trailing { left: 1 });
    assert_eq!(refused::<Vec<()>>(&[2, 0, 0]), DecodeError::Trailing { left: 2 });
}

#[test]
fn a_value_that_goes_on_where_the_bytes_end_is_refused() {
    assert_eq!(refused::<u8>(&[]), DecodeError::End);
    assert_eq!(refused::<i8>(&[]), DecodeError::End);
    assert_eq!(refused::<bool>(&[]), DecodeError::End);
    assert_eq!(refused::<f32>(&[0; 3]), DecodeError::End);
    assert_eq!(refused::<f64>(&[0; 7]), DecodeError::End);
    assert_eq!(refused::<u32>(&[0x80]), DecodeError::End);
    assert_eq!(refused::<Option<u8>>(&[1]), DecodeError::End);
}

#[test]
fn a_type_that_leaves_elements_unread_is_refused() {
    #[derive(Debug)]
    struct First;
    impl<'de> Deserialize<'de> for First {
        fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
            deserializer.deserialize_seq(First)
        }
    }
    impl<'de> Visitor<'de> for First {
        type Value = First;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a sequence")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<First, A::Error> {
            seq.next_element::<u8>()?;
            Ok(First)
        }
    }
    assert!(read::<First>(&[1, 7]).is_ok());
    assert_eq!(refused::<(First, u8, u8)>(&[3, 7, 8, 9]), DecodeError::Unread { left: 2 });
}

#[test]
fn an_alias_of_a_field_changes_nothing() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Renamed {
        #[serde(alias = "old")]
        new: u8,
    }
    assert_eq!(read::<(Renamed, u8)>(&[1, 2]), Ok((Renamed { new: 1 }, 2)));
}

#[test]
fn a_type_that_asks_the_bytes_what_they_hold_is_refused() {
    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    enum Either {
        #[expect(dead_code, reason = "it is never made")]
        Number(u8),
    }
    assert_eq!(refused::<Either>(&[1]), DecodeError::Untyped);
    assert_eq!(refused::<IgnoredAny>(&[1]), DecodeError::Untyped);
}

#[test]
fn what_a_types_own_deserialize_says_is_kept_up_to_a_length() {
    struct Wordy;
    impl<'de> Deserialize<'de> for Wordy {
        fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
            Err(de::Error::custom("é".repeat(u8::deserialize(deserializer)?.into())))
        }
    }
    let said = |characters: u8| decode::<Wordy>(&[characters], NESTING).err().unwrap().to_string();
    assert_eq!(said(3), "ééé");
    assert_eq!(said(100).len(), error::MESSAGE);
    assert_eq!(said(101), "é".repeat(error::MESSAGE / 2));
    struct Odd;
    impl<'de> Deserialize<'de> for Odd {
        fn deserialize<D: de::Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
            Err(de::Error::custom(format_args!("a{}", "é".repeat(1000))))
        }
    }
    assert_eq!(decode::<Odd>(&[], NESTING).err().unwrap().to_string().len(), error::MESSAGE - 1);
}

#[test]
fn text_and_bytes_can_be_borrowed() {
    assert_eq!(decode::<(&str, &[u8])>(&[1, b'a', 2, 8, 9], NESTING), Ok(("a", &[8, 9][..])));
}

/// Types that have two forms choose the compact one, as postcard does.
#[test]
fn the_encoding_is_not_for_human_readers() {
    let address = std::net::Ipv4Addr::new(127, 0, 0, 1);
    assert_eq!(read::<std::net::Ipv4Addr>(&postcard(&address)), Ok(address));
}
