//! What is refused, with which words; and the shape of what is generated.
//!
//! That the generated code compiles and works is for the tests of `adjoin` to show.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{Attribute, Expr, File, ImplItem, Item, TraitItem};

use crate::expand::expand;
use crate::parse;

const NOTHING: [&str; 0] = [];

fn tokens(source: &str) -> TokenStream {
    source.parse().expect("the source consists of tokens")
}

/// All that is refused in an item.
fn refused(args: &str, input: &str) -> Vec<String> {
    match parse::service(tokens(args), tokens(input)) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| error.to_string()).collect(),
    }
}

/// All that is refused in a trait with these members.
fn refused_members(members: &str) -> Vec<String> {
    refused("", &format!("trait Store {{ {members} }}"))
}

fn assert_refused(members: &str, message: &str) {
    let refused = refused_members(members);
    assert!(refused.iter().any(|text| text.contains(message)), "`{members}`: {refused:?}");
}

/// The generated file.
fn expanded(args: &str, input: &str) -> File {
    let service = parse::service(tokens(args), tokens(input)).expect("the trait is a service");
    syn::parse2(expand(&service)).expect("the expansion is a file")
}

/// A fragment as text to compare. Where spaces stand depends on where its tokens come from.
fn text(tokens: impl ToTokens) -> String {
    tokens.into_token_stream().to_string().replace(' ', "")
}

fn assert_has(file: &File, source: &str) {
    let (file, source) = (text(file), source.replace(' ', ""));
    assert!(file.contains(&source), "no `{source}` in\n{file}");
}

#[test]
fn what_cannot_be_a_method_is_refused() {
    let generic = "a method of a service cannot be generic";
    assert_refused("async fn f<T>(&self, t: T);", generic);
    assert_refused("async fn f<'a>(&self);", generic);
    assert_refused("async fn f<const N: usize>(&self);", generic);
    assert_refused("async fn f(&self) where u8: Copy;", "cannot have a where clause");
    assert_refused("fn f(&self);", "is an `async fn`");
    assert_refused("async unsafe fn f(&self);", "cannot be `unsafe`");
    assert_refused("const async fn f(&self);", "cannot be `const`");
    assert_refused("async extern \"C\" fn f(&self);", "no ABI of its own");
    assert_refused("async fn f(&self) {}", "no default body");
    assert_refused("const LIMIT: u8;", "constants do not cross a link");
    assert_refused("type Item;", "name the type where it is used");
}

#[test]
fn only_a_shared_reference_to_self_is_taken() {
    assert_refused("async fn f();", "takes `&self`");
    for receiver in ["self", "mut self", "&mut self", "self: &Self", "&'a self"] {
        assert_refused(&format!("async fn f({receiver});"), "many calls share it at the same time");
    }
}

#[test]
fn arguments_and_results_are_owned() {
    assert_refused("async fn f(&self, a: &str);", "use `String` instead of `&str`");
    assert_refused("async fn f(&self, a: &mut [u8]);", "use `Vec<u8>` or `Bytes` instead of `&[u8]`");
    assert_refused("async fn f(&self, a: &[a::B<C>]);", "use `Vec<a::B<C>>` instead of `&[a::B<C>]`");
    assert_refused("async fn f(&self, a: Vec<(u8, &u64)>);", "use `u64` instead of `&u64`");
    assert_refused("async fn f(&self) -> Result<u8, [&str; 2]>;", "use `String`");
    assert_refused("async fn f(&self, a: Cow<'_, str>);", "a borrow cannot cross a link");
    assert_refused("async fn f(&self, a: impl Copy);", "name one instead of `impl`");
    assert_refused("async fn f(&self) -> Option<impl Copy>;", "name one instead of `impl`");
    assert_refused("async fn f(&self, a: Box<dyn Copy>);", "a `dyn` type cannot be encoded");
    assert_refused("async fn f(&self, a: *const u8);", "a pointer means nothing to another process");
    assert_refused("async fn f(&self, a: Self);", "`Self` is known to the serving side alone");
    assert_eq!(refused_members("async fn f(&self, a: Cow<'static, str>);"), NOTHING);
}

#[test]
fn arguments_are_plain_names() {
    for pattern in ["_", "mut a", "(a, b)", "ref a", "a @ _"] {
        assert_refused(&format!("async fn f(&self, {pattern}: u8);"), "an argument is a plain name");
    }
    assert_refused("async fn f(&self, #[cfg(x)] a: u8);", "attributes on arguments");
    let arguments = |n| (0..n).map(|i| format!("a{i}: u8, ")).collect::<String>();
    assert_refused(&format!("async fn f(&self, {});", arguments(17)), "at most 16 arguments");
    assert_eq!(refused_members(&format!("async fn f(&self, {});", arguments(16))), NOTHING);
}

#[test]
fn an_alias_of_result_is_refused() {
    assert_refused("async fn f(&self) -> io::Result<u8>;", "spell out both types");
    assert_refused("async fn f(&self) -> fmt::Result;", "spell out both types");
    assert_eq!(refused_members("async fn f(&self) -> core::result::Result<u8, u8>;"), NOTHING);
}

#[test]
fn wrong_attributes_are_refused() {
    let known = "a method takes `id = 0x…`, `inline` and `idempotent`";
    assert_refused("#[adjoin(timeout = 1)] async fn f(&self);", known);
    assert_refused("#[adjoin(inline, inline)] async fn f(&self);", "`inline` is given twice");
    assert_refused("#[adjoin(id = 1)] #[adjoin(id = 1)] async fn f(&self);", "`id` is given twice");
    let misplaced = refused("", "#[adjoin(inline)] trait Store {}");
    assert!(misplaced[0].contains("belongs on a method"), "{misplaced:?}");
    for id in ["\"1\"", "-1", "1u8", "0x1_0000_0000_0000_0000", "ID"] {
        assert_refused(&format!("#[adjoin(id = {id})] async fn f(&self);"), "an id is a number of 64 bits");
    }
    for (args, message) in [
        ("version = 1", "a service takes `name = \"…\"`"),
        ("name = \"\"", "the name of a service consists of"),
        ("name = \"{}\"", "the name of a service consists of"),
        ("name = \"A\", name = \"B\"", "`name` is given twice"),
    ] {
        let refused = refused(args, "trait Store {}");
        assert!(refused[0].contains(message), "`{args}`: {refused:?}");
    }
}

#[test]
fn names_that_clash_are_refused() {
    for name in ["new", "caller", "service"] {
        assert_refused(&format!("async fn {name}(&self);"), "is taken by `StoreClient` itself");
    }
    assert_refused(
        "async fn get_key(&self); async fn getKey(&self);",
        "`getKey` and `get_key` are both described by `GET_KEY`",
    );
    assert_refused("async fn get(&self); async fn get(&self);", "there is a method `get` already");
    let same_id = "#[adjoin(id = 255)] async fn a(&self); #[adjoin(id = 0xff)] async fn b(&self);";
    assert_refused(same_id, "`a` is pinned to this id already");
    let alternatives = "#[cfg(a)] async fn f(&self); #[cfg(not(a))] async fn f(&self, a: u8);";
    assert_eq!(refused_members(alternatives), NOTHING);
}

#[test]
fn all_errors_are_told_at_once() {
    let input = "unsafe trait Store<T> {
        type Key;
        fn get(&mut self, key: &str) -> io::Result<u8>;
    }";
    assert_eq!(refused("nam = \"x\"", input).len(), 8);
    assert_eq!(refused("", "struct NotATrait;"), ["`#[adjoin::service]` belongs on a trait"]);
    assert_eq!(refused("", "trait Store { async }").len(), 1, "what cannot be parsed is told as it is");
}

#[test]
fn the_trait_keeps_what_the_user_wrote() {
    let input = "
        /// Stores.
        pub(crate) trait Store: Clone {
            /// Gets.
            #[deprecated]
            #[adjoin(inline)]
            async fn get(&self, r#type: String) -> Option<u8>;
        }";
    let file = expanded("", input);
    let Item::Trait(item) = &file.items[0] else { panic!("the trait comes first") };
    assert_eq!(text(&item.vis), "pub(crate)");
    assert!(item.attrs[0].path().is_ident("doc"));
    assert_eq!(text(&item.supertraits), "Clone+::core::marker::Send+::core::marker::Sync+'static");
    let TraitItem::Fn(method) = &item.items[0] else { panic!("the method is a function") };
    assert_eq!(method.attrs.len(), 2, "`adjoin` is taken away");
    assert!(method.sig.asyncness.is_none());
    let output = "->impl::core::future::Future<Output=Option<u8>>+::core::marker::Send";
    assert_eq!(text(&method.sig.output), output);
}

#[test]
fn what_the_user_says_of_a_service_is_said_of_all_that_is_made_of_it() {
    let input = "
        /// Stores things.
        #[doc(alias = \"shelf\")]
        #[allow(unused)]
        trait Store {
            /// Gets one.
            async fn get(&self);
        }";
    let file = expanded("", input);
    let docs = |attrs: &[Attribute]| {
        let docs = attrs.iter().filter(|attr| attr.path().is_ident("doc")).map(text);
        docs.collect::<String>().contains("Storesthings.\"]#[doc(alias=\"shelf\")]")
    };
    let structs: Vec<_> = file
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Struct(item) => Some(item),
            _ => None,
        })
        .collect();
    assert_eq!(structs.len(), 2);
    for item in structs {
        assert!(docs(&item.attrs), "{}", text(item));
        assert!(!text(item).contains("allow(unused)"), "{}", text(item));
    }
    // Of the method: in the trait and on the client.
    assert_eq!(text(&file).matches("Getsone.").count(), 2);
}

#[test]
fn results_are_split_and_plain_values_never_fail() {
    let input = "trait Store {
        async fn get(&self, key: String, at: u8) -> std::result::Result<u8, Missing>;
        async fn put(&self, value: u8);
    }";
    let file = expanded("", input);
    assert_has(&file, "-> ::adjoin::Call<(String, u8,), u8, Missing>");
    assert_has(&file, "request.serve_result::<(String, u8,), u8, Missing,_,_>(StoreClient::GET,");
    assert_has(&file, "-> ::adjoin::Call<(u8,), (), ::adjoin::Never>");
    assert_has(&file, "request.serve::<(u8,), (),_,_>(StoreClient::PUT,");
}

#[test]
fn names_on_the_wire_are_plain() {
    let input = "trait r#Trait {
        async fn r#match(&self, request: u8);
        async fn _1(&self);
    }";
    let file = expanded("name = \"kept\"", input);
    assert_has(&file, "described_method(\"kept\", \"match\",");
    assert_has(&file, "const MATCH: &'static ::adjoin::Method");
    assert_has(&file, "const _1: &'static ::adjoin::Method");
    assert_has(&file, "struct TraitClient");
}

#[test]
fn the_names_and_types_of_arguments_and_results_are_described() {
    let input = "trait Store { async fn get(&self, r#type: String, at: u8) -> Result<u16, Missing>; }";
    let signature = "signature(
        &[\"type\", \"at\"],
        &[schema::<String>(), schema::<u8>()],
        schema::<u16>(),
        ::core::option::Option::Some(schema::<Missing>())
    )";
    let signature = signature.replace("schema", "::adjoin::__private::derive_schema_or_pin_the_id");
    assert_has(&expanded("", input), &signature.replace('\n', ""));
}

#[test]
fn a_pinned_id_asks_for_no_schema() {
    let file = expanded(
        "",
        "trait Store { #[adjoin(id = 0xff, idempotent)] async fn f(&self, a: A) -> Result<B, C>; }",
    );
    assert_has(&file, "method(\"Store\", \"f\", ::adjoin::MethodId::new(255u64), false, true)");
    assert!(!text(&file).contains("schema"));
    assert_has(&file, "!::adjoin::__private::is_built_in(StoreClient::F.id)");
}

#[test]
fn a_cfg_covers_all_that_belongs_to_its_method() {
    let input = "#[cfg(outer)] trait Store { #[cfg(inner)] async fn f(&self, c: C) -> Result<A, B>; }";
    let file = expanded("", input);
    // Trait, constant, list of methods, call, constant in the dispatcher, its arm, list of ids, a check of each of
    // three types, of the id, and of the error type.
    assert_eq!(text(&file).matches("inner").count(), 12);
    // Trait, client, dispatcher, and the block with all impls.
    assert_eq!(text(&file).matches("outer").count(), 4);
}

#[test]
fn everything_is_documented() {
    let file = expanded("", "pub trait Store { async fn get(&self); }");
    let Some(Item::Const(block)) = file.items.last() else { panic!("the impls come last") };
    let Expr::Block(block) = &*block.expr else { panic!("the impls stand in a block") };
    let items = block.block.stmts.iter().map(ToTokens::to_token_stream).collect();
    let impls: File = syn::parse2(items).expect("the block holds items alone");
    let client = impls.items.iter().find_map(|item| match item {
        Item::Impl(item) => Some(item),
        _ => None,
    });
    let client = client.expect("the client's impl comes first");
    for item in &client.items {
        let (attrs, name) = match item {
            ImplItem::Fn(item) => (&item.attrs, &item.sig.ident),
            ImplItem::Const(item) => (&item.attrs, &item.ident),
            other => panic!("{}", text(other)),
        };
        assert!(attrs.iter().any(|attr| attr.path().is_ident("doc")), "`{name}` has no doc");
    }
}
