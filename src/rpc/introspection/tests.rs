//! What is said of types, and of two that differ; that both agree with the ids of methods.

use std::collections::BTreeMap;

use postcard_schema::{
    Schema,
    schema::{DataModelType, DataModelVariant, NamedType, NamedValue, NamedVariant},
};
use proptest::prelude::*;

use super::{
    compare::differences,
    description::{MethodDescription, ServiceDescription, SignatureDescription},
    explanation::Explanation,
    table::{Budget, SignatureOnWire},
};
use crate::rpc::{
    method::{Method, Service, Signature, described_method, method, service, signature},
    method_id::{MethodId, RX_FIELD, TX_FIELD, method_id},
    rx::Rx,
    tx::Tx,
};

const UNIT: &NamedType = <()>::SCHEMA;

/// Two versions of a program, as two sides have them.
mod new {
    #[derive(postcard_schema::Schema)]
    #[expect(dead_code)]
    pub(super) struct Page {
        pub(super) number: u32,
        pub(super) title: Option<String>,
        pub(super) size: (f32, f32),
    }

    #[derive(postcard_schema::Schema)]
    #[expect(dead_code)]
    pub(super) enum Outcome {
        Done(u32),
        Moved { to: String, lines: Vec<u16> },
        Gone,
    }

    #[derive(postcard_schema::Schema)]
    #[expect(dead_code)]
    pub(super) struct Number(pub(super) u32);

    #[derive(postcard_schema::Schema)]
    pub(super) struct Marker;
}

mod old {
    #[derive(postcard_schema::Schema)]
    #[expect(dead_code)]
    pub(super) struct Page {
        pub(super) number: u64,
        pub(super) title: Option<String>,
        pub(super) size: (f32, f32),
    }

    #[derive(postcard_schema::Schema)]
    #[expect(dead_code)]
    pub(super) struct Swapped {
        pub(super) title: Option<String>,
        pub(super) number: u32,
        pub(super) size: (f32, f32),
    }

    #[derive(postcard_schema::Schema)]
    #[expect(dead_code)]
    pub(super) enum Outcome {
        Done(u32),
        Moved { to: String, lines: Vec<u32> },
    }

    /// An enum that has the name of a struct.
    #[derive(postcard_schema::Schema)]
    #[expect(dead_code)]
    pub(super) enum Number {
        One,
        Many(u8, u8),
    }
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn leaked_signature(arguments: &[&'static NamedType], result: &'static NamedType) -> &'static Signature {
    let names = ["first", "second", "third"];
    leak(signature(&leak(names)[..arguments.len()], leak(arguments.to_vec()), result, None))
}

fn read(signature: &Signature) -> SignatureDescription {
    SignatureOnWire::of(signature).read(&mut Budget::bytes(1 << 20)).unwrap()
}

/// The differences of two methods with one argument.
fn of_arguments<Here: Schema, There: Schema>() -> Vec<String> {
    let describe = |ty| read(leaked_signature(&[ty], UNIT));
    texts(&describe(Here::SCHEMA), &describe(There::SCHEMA))
}

fn texts(here: &SignatureDescription, there: &SignatureDescription) -> Vec<String> {
    differences(here, there).iter().map(ToString::to_string).collect()
}

#[test]
fn types_are_shown_as_one_writes_them() {
    let shown = |ty: &'static NamedType| {
        let signature = read(leaked_signature(&[], ty));
        (signature.result.to_string(), format!("{:#}", signature.result))
    };
    for (ty, plain, full) in [
        (<(u8, i128, char)>::SCHEMA, "(u8, i128, char)", "(u8, i128, char)"),
        (<(u8,)>::SCHEMA, "(u8,)", "(u8,)"),
        (<()>::SCHEMA, "()", "()"),
        (<[u8; 0]>::SCHEMA, "[]", "[]"),
        (<[u8; 32]>::SCHEMA, "[u8; 32]", "[u8; 32]"),
        (<Vec<u8>>::SCHEMA, "Bytes", "Bytes"),
        (<Vec<Option<String>>>::SCHEMA, "Vec<Option<String>>", "Vec<Option<String>>"),
        (<BTreeMap<String, bool>>::SCHEMA, "Map<String, bool>", "Map<String, bool>"),
        (<Result<u8, String>>::SCHEMA, "Result<u8, String>", "Result<u8, String>"),
        (<Tx<Rx<u64>>>::SCHEMA, "Tx<Rx<u64>>", "Tx<Rx<u64>>"),
        (new::Number::SCHEMA, "Number(u32)", "Number(u32)"),
        (new::Marker::SCHEMA, "Marker", "Marker"),
        (
            <Vec<new::Page>>::SCHEMA,
            "Vec<Page>",
            "Vec<struct Page { number: u32, title: Option<String>, size: (f32, f32) }>",
        ),
        (
            new::Outcome::SCHEMA,
            "Outcome",
            "enum Outcome { Done(u32), Moved { to: String, lines: Vec<u16> }, Gone }",
        ),
    ] {
        assert_eq!(shown(ty), (plain.to_owned(), full.to_owned()));
    }
}

#[test]
fn services_are_shown_with_a_method_a_line() {
    static GET: Signature = signature(&["page"], &[u32::SCHEMA], new::Page::SCHEMA, Some(String::SCHEMA));
    static PING: Signature = signature(&[], &[], UNIT, None);
    static STORE: Service = service(
        "Store",
        &[
            described_method("Store", "get", &GET, false, false),
            described_method("Store", "ping", &PING, true, false),
            method("Store", "old", MethodId::new(7), false, false),
        ],
    );
    let text = "service Store
    get(page: u32) -> Result<Page, String>
    ping()
    old, id 0x0000000000000007";
    assert_eq!(ServiceDescription::from(&STORE).to_string(), text);
}

#[test]
fn a_difference_is_told_by_its_place() {
    let one = |found: Vec<String>| {
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    };
    for (found, expected) in [
        (of_arguments::<u32, u64>(), "argument 1 \"first\": u32 here, u64 there"),
        (of_arguments::<Vec<u8>, String>(), "argument 1 \"first\": Bytes here, String there"),
        (
            of_arguments::<new::Page, old::Page>(),
            "argument 1 \"first\", field \"number\": u32 here, u64 there",
        ),
        (
            of_arguments::<Vec<Option<new::Page>>, Vec<Option<old::Page>>>(),
            "argument 1 \"first\", element, inside the Option, field \"number\": u32 here, u64 there",
        ),
        (
            of_arguments::<new::Page, old::Swapped>(),
            "argument 1 \"first\", order of fields: (number, title, size) here, (title, number, size) there",
        ),
        (of_arguments::<Tx<u64>, Rx<u64>>(), "argument 1 \"first\": Tx<u64> here, Rx<u64> there"),
        (
            of_arguments::<Rx<new::Page>, Rx<old::Page>>(),
            "argument 1 \"first\", element of the stream, field \"number\": u32 here, u64 there",
        ),
        (
            of_arguments::<BTreeMap<u8, u16>, BTreeMap<u8, u32>>(),
            "argument 1 \"first\", value: u16 here, u32 there",
        ),
        (
            of_arguments::<BTreeMap<u8, u16>, BTreeMap<i8, u16>>(),
            "argument 1 \"first\", key: u8 here, i8 there",
        ),
        (of_arguments::<(u8, u16), (u8, u32)>(), "argument 1 \"first\", element 2: u16 here, u32 there"),
        (of_arguments::<(u8, u16), (u8,)>(), "argument 1 \"first\": (u8, u16) here, (u8,) there"),
        (of_arguments::<[u8; 32], [u8; 33]>(), "argument 1 \"first\": [u8; 32] here, [u8; 33] there"),
        (of_arguments::<[u8; 32], [u16; 32]>(), "argument 1 \"first\", element: u8 here, u16 there"),
        (
            of_arguments::<[u8; 6], (u8, u8, u8, u8, u8, bool)>(),
            "argument 1 \"first\", element 6: u8 here, bool there",
        ),
        (of_arguments::<[u8; 0], ()>(), "argument 1 \"first\": [] here, () there"),
        (
            of_arguments::<new::Number, old::Number>(),
            "argument 1 \"first\": Number(u32) here, enum Number there",
        ),
        (of_arguments::<u64, i64>(), "argument 1 \"first\": u64 here, i64 there"),
    ] {
        assert_eq!(one(found), expected);
    }
}

#[test]
fn all_that_differs_is_told() {
    assert_eq!(
        of_arguments::<new::Outcome, old::Outcome>(),
        [
            "argument 1 \"first\", variant \"Gone\" is missing there",
            "argument 1 \"first\", variant \"Moved\", field \"lines\", element: u16 here, u32 there",
        ]
    );
    assert_eq!(
        of_arguments::<old::Outcome, new::Outcome>()[0],
        "argument 1 \"first\", variant \"Gone\" is missing here"
    );
    assert_eq!(
        of_arguments::<new::Outcome, old::Number>()[3..],
        [
            "argument 1 \"first\", variant \"One\" is missing here",
            "argument 1 \"first\", variant \"Many\" is missing here",
        ]
    );
}

#[test]
fn variants_of_other_kinds_are_told_apart() {
    let variants = |ty| -> &'static NamedType {
        let variant = leak(NamedVariant { name: "Moved", ty });
        leak(NamedType { name: "Outcome", ty: leak(DataModelType::Enum(leak([variant]))) })
    };
    let unit = variants(&DataModelVariant::UnitVariant);
    let tuple = variants(leak(DataModelVariant::TupleVariant(leak([u8::SCHEMA, u8::SCHEMA]))));
    let one = variants(leak(DataModelVariant::TupleVariant(leak([u8::SCHEMA]))));
    let newtype = variants(leak(DataModelVariant::NewtypeVariant(u8::SCHEMA)));
    let found = |here, there| {
        texts(&read(leaked_signature(&[], here)), &read(leaked_signature(&[], there))).join("; ")
    };
    assert_eq!(found(unit, tuple), "result, variant \"Moved\": Moved here, Moved(u8, u8) there");
    assert_eq!(found(tuple, one), "result, variant \"Moved\": Moved(u8, u8) here, Moved(u8) there");
    assert_eq!(found(one, newtype), "");
}

#[test]
fn the_number_of_arguments_and_the_error_type_count() {
    let describe = |arguments, error| {
        let whole = leaked_signature(arguments, u8::SCHEMA);
        read(leak(Signature { error, ..*whole }))
    };
    let plain = describe(&[u8::SCHEMA], None);
    assert_eq!(
        texts(&plain, &describe(&[u8::SCHEMA, u8::SCHEMA], None)),
        ["number of arguments: 1 (first: u8) here, 2 (first: u8, second: u8) there"]
    );
    let fails = describe(&[u8::SCHEMA], Some(String::SCHEMA));
    assert_eq!(texts(&plain, &fails), ["error: none here, String there"]);
    assert_eq!(texts(&fails, &plain), ["error: String here, none there"]);
    let fails_otherwise = describe(&[u8::SCHEMA], Some(new::Outcome::SCHEMA));
    assert_eq!(texts(&fails, &fails_otherwise), ["error: String here, enum Outcome there"]);
}

#[test]
fn differences_without_end_are_cut() {
    let fields = |names: &[&'static str], ty| -> &'static NamedType {
        let fields: Vec<_> = names.iter().map(|name| leak(NamedValue { name, ty })).collect();
        leak(NamedType { name: "Wide", ty: leak(DataModelType::Struct(leak(fields))) })
    };
    let names: Vec<&'static str> = (0..100).map(|i| &**leak(format!("field_{i}"))).collect();
    let (here, there) = (fields(&names, u8::SCHEMA), fields(&names, u16::SCHEMA));
    let found = texts(&read(leaked_signature(&[here], UNIT)), &read(leaked_signature(&[there], UNIT)));
    assert_eq!(found.len(), 16);
    assert_eq!(found[15], "argument 1 \"first\", field \"field_15\": u8 here, u16 there");
    let found = texts(&read(leaked_signature(&[here], UNIT)), &read(leaked_signature(&[u8::SCHEMA], UNIT)));
    assert_eq!(found, ["argument 1 \"first\": struct Wide here, u8 there"]);
    // A long text is cut, too.
    let tuple = leak(NamedType { name: "", ty: leak(DataModelType::Tuple(leak([new::Page::SCHEMA; 100]))) });
    let tuples =
        leak(NamedType { name: "", ty: leak(DataModelType::Tuple(leak([tuple, u8::SCHEMA].repeat(50)))) });
    let found = of_types(tuples, u8::SCHEMA);
    assert!(found.len() < 300 && found.contains('…'), "{found}");
}

fn of_types(here: &'static NamedType, there: &'static NamedType) -> String {
    texts(&read(leaked_signature(&[here], UNIT)), &read(leaked_signature(&[there], UNIT))).join("; ")
}

static GET: Signature = signature(&["page"], &[u32::SCHEMA], UNIT, None);
static GET_AS_IT_WAS: Signature = signature(&["page"], &[u16::SCHEMA], UNIT, None);

const fn get(service: &'static str) -> Method {
    described_method(service, "get", &GET, false, false)
}

fn offered(services: &[Service]) -> Vec<ServiceDescription> {
    services.iter().map(ServiceDescription::from).collect()
}

#[test]
fn a_service_that_is_missing_is_explained() {
    static METHOD: Method = get("Store");
    let explain = |names: &[&'static str]| {
        let services: Vec<_> = names.iter().map(|name| service(name, &[])).collect();
        Explanation::of(&METHOD, &offered(&services)).to_string()
    };
    assert_eq!(explain(&[]), "the peer has no service `Store`; it offers none");
    assert_eq!(
        explain(&["Stores", "Stork", "Greeter"]),
        "the peer has no service `Store`; the closest is `Stores`"
    );
    assert_eq!(
        explain(&["Greeter", "Thumbnails"]),
        "the peer has no service `Store`; it offers `Greeter`, `Thumbnails`"
    );
    let many: Vec<&'static str> = (0..12).map(|i| &**leak(format!("{i}"))).collect();
    assert_eq!(
        explain(&many),
        "the peer has no service `Store`; it offers `0`, `1`, `2`, `3`, `4`, `5`, `6`, `7` and 4 more"
    );
}

#[test]
fn a_method_that_is_missing_is_explained() {
    static METHOD: Method = get("Store");
    let explain = |names: &[&'static str]| {
        let id = MethodId::new(1);
        let methods = names.iter().map(|name| method("Store", name, id, false, false)).collect();
        let services = [service("Other", leak([get("Other")])), service("Store", Vec::leak(methods))];
        Explanation::of(&METHOD, &offered(&services)).to_string()
    };
    assert_eq!(explain(&[]), "the peer's service `Store` has no method `get`; it has none");
    assert_eq!(
        explain(&["put", "gets"]),
        "the peer's service `Store` has no method `get`; the closest is `gets`"
    );
    assert_eq!(
        explain(&["remove", "put"]),
        "the peer's service `Store` has no method `get`; it has `remove`, `put`"
    );
}

#[test]
fn a_method_of_the_same_name_is_compared() {
    static METHOD: Method = get("Store");
    static PINNED: Method = method("Store", "get", MethodId::new(1), false, false);
    let explain = |method: &'static Method, there: Method| {
        Explanation::of(method, &offered(&[service("Store", leak([there]))]))
    };
    let differs = explain(&METHOD, described_method("Store", "get", &GET_AS_IT_WAS, false, false));
    assert!(matches!(&differs, Explanation::SignatureDiffers { differences, .. } if differences.len() == 1));
    assert_eq!(
        differs.to_string(),
        "the peer's method `Store.get` has another signature: argument 1 \"page\": u32 here, u16 there"
    );
    for (here, there) in [(&METHOD, PINNED), (&PINNED, METHOD)] {
        assert_eq!(
            explain(here, there).to_string(),
            format!(
                "the method `Store.get` has the id {} here and {} there: pin the same id on both sides, or on \
                 neither",
                here.id, there.id
            )
        );
    }
    assert_eq!(
        explain(&PINNED, method("Store", "fetch", MethodId::new(1), false, false)).to_string(),
        "the peer offers this very method, as `Store.fetch`"
    );
    assert_eq!(Explanation::NotStated.to_string(), "the peer does not say what it offers");
}

#[test]
fn names_of_a_peer_cannot_forge_a_log() {
    static METHOD: Method = get("Store");
    let name = format!("Store\n\u{1b}[2J\"{}", "x".repeat(1000));
    let services = [ServiceDescription { name, methods: Vec::new() }];
    let shown = Explanation::of(&METHOD, &services).to_string();
    let text = format!(
        "the peer has no service `Store`; it offers `Store\\n\\u{{1b}}[2J\\\"{}…`",
        "x".repeat(64 - 11)
    );
    assert_eq!(shown, text);
}

#[test]
fn a_pinned_method_has_no_signature_and_others_have() {
    let pinned = method("Store", "get", MethodId::new(1), true, true);
    let described = MethodDescription::from(&pinned);
    assert!(described.signature.is_none() && described.inline && described.idempotent);
    assert_eq!(MethodDescription::from(&get("Store")).signature, Some(read(&GET)));
}

/// The same thing as two sides have it. Made by chance, and mostly alike.
type Pair<T> = (&'static T, &'static T);

fn named(ty: DataModelType) -> &'static NamedType {
    leak(NamedType { name: "Type", ty: leak(ty) })
}

/// What is done to one of two lists.
#[derive(Clone, Copy, Debug)]
enum Edit {
    Nothing,
    DropLast,
    Reverse,
}

fn any_edit() -> impl Strategy<Value = Edit> {
    prop_oneof![8 => Just(Edit::Nothing), 1 => Just(Edit::DropLast), 1 => Just(Edit::Reverse)]
}

/// Two lists of pairs, one of them edited.
fn split<T: 'static>((pairs, edit): (Vec<(T, T)>, Edit)) -> (&'static [T], &'static [T]) {
    let (here, mut there): (Vec<T>, Vec<T>) = pairs.into_iter().unzip();
    match edit {
        Edit::Nothing => {}
        Edit::DropLast => _ = there.pop(),
        Edit::Reverse => there.reverse(),
    }
    (here.leak(), there.leak())
}

fn lists<T: 'static + std::fmt::Debug>(
    pair: impl Strategy<Value = (T, T)>,
) -> impl Strategy<Value = (&'static [T], &'static [T])> {
    (prop::collection::vec(pair, 0..4), any_edit()).prop_map(split)
}

fn any_leaf() -> impl Strategy<Value = Pair<NamedType>> {
    let leaves = [
        DataModelType::Bool,
        DataModelType::U8,
        DataModelType::U32,
        DataModelType::Unit,
        DataModelType::UnitStruct,
        DataModelType::String,
        DataModelType::ByteArray,
        DataModelType::Seq(u8::SCHEMA),
        DataModelType::Seq(named(DataModelType::NewtypeStruct(u8::SCHEMA))),
        DataModelType::Tuple(&[]),
    ];
    let leaf = prop::sample::select(leaves.map(named).to_vec());
    prop_oneof![6 => leaf.clone().prop_map(|leaf| (leaf, leaf)), 1 => (leaf.clone(), leaf)]
}

fn any_name() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop_oneof![
        4 => Just(("a", "a")),
        4 => Just(("b", "b")),
        1 => Just(("a", "r#a")),
        1 => Just(("a", "b")),
        1 => Just((TX_FIELD, TX_FIELD)),
        1 => Just((TX_FIELD, RX_FIELD)),
    ]
}

fn any_fields(
    inner: impl Strategy<Value = Pair<NamedType>>,
) -> impl Strategy<Value = Pair<[&'static NamedValue]>> {
    let field = |name, ty| leak(NamedValue { name, ty });
    lists((any_name(), inner).prop_map(move |((a, b), (here, there))| (field(a, here), field(b, there))))
}

fn any_variants(
    inner: impl Strategy<Value = Pair<NamedType>> + Clone,
) -> impl Strategy<Value = Pair<[&'static NamedVariant]>> {
    let one = |ty| DataModelVariant::TupleVariant(leak([ty]));
    let contents = prop_oneof![
        Just((DataModelVariant::UnitVariant, DataModelVariant::UnitVariant)),
        Just((DataModelVariant::UnitVariant, DataModelVariant::TupleVariant(&[]))),
        inner.clone().prop_map(move |(a, b)| (DataModelVariant::NewtypeVariant(a), one(b))),
        lists(inner.clone())
            .prop_map(|(a, b)| (DataModelVariant::TupleVariant(a), DataModelVariant::TupleVariant(b))),
        any_fields(inner)
            .prop_map(|(a, b)| (DataModelVariant::StructVariant(a), DataModelVariant::StructVariant(b))),
    ];
    let variant = |name, ty| leak(NamedVariant { name, ty: leak(ty) });
    lists(
        (any_name(), contents).prop_map(move |((a, b), (here, there))| (variant(a, here), variant(b, there))),
    )
}

fn any_type() -> impl Strategy<Value = Pair<NamedType>> {
    any_leaf().prop_recursive(3, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|(a, b)| (DataModelType::Option(a), DataModelType::Option(b))),
            inner.clone().prop_map(|(a, b)| (DataModelType::Seq(a), DataModelType::Seq(b))),
            inner.clone().prop_map(|(a, b)| (DataModelType::NewtypeStruct(a), *b.ty)),
            lists(inner.clone()).prop_map(|(a, b)| (DataModelType::Tuple(a), DataModelType::TupleStruct(b))),
            (inner.clone(), 3..7usize, any_edit()).prop_map(|((a, b), len, edit)| {
                let (a, b) = split((vec![(a, b); len], edit));
                (DataModelType::Tuple(a), DataModelType::Tuple(b))
            }),
            (inner.clone(), inner.clone()).prop_map(|((key, other_key), (val, other_val))| {
                (DataModelType::Map { key, val }, DataModelType::Map { key: other_key, val: other_val })
            }),
            any_fields(inner.clone()).prop_map(|(a, b)| (DataModelType::Struct(a), DataModelType::Struct(b))),
            any_variants(inner).prop_map(|(a, b)| (DataModelType::Enum(a), DataModelType::Enum(b))),
        ]
        .prop_map(|(here, there)| (named(here), named(there)))
    })
}

fn any_signatures() -> impl Strategy<Value = Pair<Signature>> {
    let error = prop_oneof![
        4 => any_type().prop_map(|(a, b)| (Some(a), Some(b))),
        4 => Just((None, None)),
        1 => any_type().prop_map(|(a, _)| (Some(a), None)),
    ];
    (lists(any_type()), any_type(), error).prop_map(|((here, there), (a, b), (fails, fails_there))| {
        let signature =
            |arguments, result, error| leak(Signature { names: &["x", "y", "z"], arguments, result, error });
        (signature(here, a, fails), signature(there, b, fails_there))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn two_signatures_differ_exactly_if_their_ids_do((here, there) in any_signatures()) {
        let id = |of: &Signature| method_id("Service", "method", of.arguments, of.result, of.error);
        for (here, there) in [(here, there), (there, here), (here, here)] {
            let found = texts(&read(here), &read(there));
            prop_assert_eq!(id(here) == id(there), found.is_empty(), "{:?}", found);
        }
    }
}
