//! The answer of the built-in method: a page of what this side offers, and how a caller puts pages together.
//!
//! A page is a few kilobytes, so that an answer neither meets the limit of a payload nor holds up what goes on
//! on the link. A method that does not fit goes without its signature.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use super::{
    description::{MethodDescription, ServiceDescription},
    table::{Budget, SignatureOnWire, Unreadable},
};
use crate::rpc::{
    method::{Method, Service},
    method_id::MethodId,
};

/// Where a page begins: a service, and a method of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub(super) struct Position {
    service: u32,
    method: u32,
}

/// Services, the first of which may be the rest of one that the page before began.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Schema)]
pub(super) struct Page {
    services: Vec<ServiceOnWire>,
    /// Where the next one begins. `None`: this is the last.
    next: Option<Position>,
}

#[derive(Clone, Debug, Serialize, Deserialize, Schema)]
struct ServiceOnWire {
    name: String,
    methods: Vec<MethodOnWire>,
}

#[derive(Clone, Debug, Serialize, Deserialize, Schema)]
struct MethodOnWire {
    name: String,
    id: u64,
    inline: bool,
    idempotent: bool,
    signature: Option<SignatureOnWire>,
}

impl Position {
    pub(super) const START: Position = Position { service: 0, method: 0 };

    fn new(service: usize, method: usize) -> Self {
        let index = |index| u32::try_from(index).unwrap_or(u32::MAX);
        Position { service: index(service), method: index(method) }
    }
}

impl Page {
    /// What `services` offer from a place on. The payload of the answer is to be at most `limit` bytes.
    pub(super) fn of(services: &[&'static Service], from: Position, limit: usize) -> Self {
        let limit = limit.min(MAX_PAGE);
        let (mut page, mut len, mut current) = (Page::default(), FRAME, None);
        for (at, service, method) in entries(services).skip_while(|(at, ..)| *at < from) {
            let begins = current != Some(at.service);
            let head = service.name.len() + FRAME;
            let method = method.map(|method| MethodOnWire::of(method, limit.saturating_sub(FRAME + head)));
            let more = method.as_ref().map_or(0, encoded_len) + if begins { head } else { 0 };
            if !page.services.is_empty() && len + more > limit.min(USUAL_PAGE) {
                page.next = Some(at);
                break;
            }
            if begins {
                page.services.push(ServiceOnWire { name: service.name.to_owned(), methods: Vec::new() });
                current = Some(at.service);
            }
            if let Some(part) = page.services.last_mut() {
                part.methods.extend(method);
            }
            len += more;
        }
        page
    }
}

/// All methods, each with its place; a service without methods stands for itself.
fn entries<'s>(
    services: &'s [&'static Service],
) -> impl Iterator<Item = (Position, &'static Service, Option<&'static Method>)> + 's {
    services.iter().enumerate().flat_map(|(s, service)| {
        let nothing = service.methods.is_empty().then_some(None);
        let methods = service.methods.iter().map(Some).chain(nothing).enumerate();
        methods.map(move |(m, method)| (Position::new(s, m), *service, method))
    })
}

/// A page is closed once it has as many bytes.
const USUAL_PAGE: usize = 8 << 10;

/// No page has more; only one with a single large method comes near.
const MAX_PAGE: usize = 64 << 10;

/// Bytes that are enough for what stands around the names of a page, or of a service: counts, and the place of
/// the next page.
const FRAME: usize = 24;

fn encoded_len<T: Serialize>(value: &T) -> usize {
    postcard::serialize_with_flavor(value, postcard::ser_flavors::Size::default()).unwrap_or(usize::MAX / 2)
}

impl MethodOnWire {
    /// Describes a method in at most `limit` bytes, without its signature if need be.
    fn of(method: &Method, limit: usize) -> Self {
        let mut described = MethodOnWire {
            name: method.name.to_owned(),
            id: method.id.get(),
            inline: method.inline,
            idempotent: method.idempotent,
            signature: method.signature.map(SignatureOnWire::of),
        };
        if encoded_len(&described) > limit {
            described.signature = None;
        }
        described
    }

    fn read(self, budget: &mut Budget) -> Result<MethodDescription, Unreadable> {
        budget.take::<MethodDescription>(&self.name)?;
        let signature = self.signature.map(|signature| signature.read(budget)).transpose()?;
        let MethodOnWire { name, id, inline, idempotent, .. } = self;
        Ok(MethodDescription { name, id: MethodId::new(id), inline, idempotent, signature })
    }
}

/// Puts pages together.
pub(super) struct Assembly {
    services: Vec<ServiceDescription>,
    budget: Budget,
}

impl Assembly {
    pub(super) fn new() -> Self {
        Assembly { services: Vec::new(), budget: Budget::bytes(MAX_DESCRIPTION) }
    }

    /// Adds the page that begins at `asked`, and says where the next one does.
    ///
    /// # Errors
    ///
    /// The page is no continuation, or says what [`SignatureOnWire::read`] refuses.
    pub(super) fn add(&mut self, asked: Position, page: Page) -> Result<Option<Position>, Unreadable> {
        if page.next.is_some_and(|next| next <= asked || page.services.is_empty()) {
            return Err(Unreadable::Page);
        }
        self.budget.take_bytes(COST_OF_A_PAGE)?;
        for (i, part) in page.services.into_iter().enumerate() {
            if i == 0 && asked.method > 0 {
                if self.services.last().is_none_or(|begun| begun.name != part.name) {
                    return Err(Unreadable::Page);
                }
            } else {
                self.budget.take::<ServiceDescription>(&part.name)?;
                self.services.push(ServiceDescription { name: part.name, methods: Vec::new() });
            }
            let Some(service) = self.services.last_mut() else { return Err(Unreadable::Page) };
            for method in part.methods {
                service.methods.push(method.read(&mut self.budget)?);
            }
        }
        Ok(page.next)
    }

    pub(super) fn finish(self) -> Vec<ServiceDescription> {
        self.services
    }
}

/// Bytes of memory that the description of a peer may take: no real one comes near.
const MAX_DESCRIPTION: usize = 16 << 20;

/// What a page costs of that, whatever stands on it: a peer cannot go on for ever.
const COST_OF_A_PAGE: usize = 1 << 10;

impl From<&Method> for MethodDescription {
    /// Describes a method of this program.
    fn from(method: &Method) -> Self {
        let signature = method.signature.map(SignatureOnWire::of);
        MethodDescription {
            name: method.name.to_owned(),
            id: method.id,
            inline: method.inline,
            idempotent: method.idempotent,
            // What nests too deep to be read is not stated.
            signature: signature.and_then(|signature| signature.read(&mut Budget::bytes(usize::MAX)).ok()),
        }
    }
}

impl From<&Service> for ServiceDescription {
    /// Describes a service of this program.
    fn from(service: &Service) -> Self {
        let methods = service.methods.iter().map(MethodDescription::from).collect();
        ServiceDescription { name: service.name.to_owned(), methods }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rpc::{
        introspection::{DESCRIBE_ID, Explanation},
        method::{Signature, described_method, method, service, signature},
    };

    #[derive(Schema)]
    #[expect(dead_code)]
    struct Row {
        key: String,
        values: Vec<(u16, f64)>,
        deleted: Option<bool>,
    }

    static PUT: Signature =
        signature(&["row", "at"], &[Row::SCHEMA, u32::SCHEMA], u64::SCHEMA, Some(Row::SCHEMA));
    static ALPHA: Service = service(
        "Alpha",
        &[
            described_method("Alpha", "put", &PUT, false, true),
            described_method("Alpha", "replace", &PUT, true, false),
            method("Alpha", "pinned", MethodId::new(7), false, false),
        ],
    );
    static EMPTY: Service = service("Empty", &[]);
    static BETA: Service = service("Beta", &[described_method("Beta", "put", &PUT, false, false)]);
    const SERVICES: &[&Service] = &[&EMPTY, &ALPHA, &EMPTY, &BETA];

    fn bytes(page: &Page) -> Vec<u8> {
        postcard::to_extend(page, Vec::new()).unwrap()
    }

    /// All that is offered, as it arrives, and how many pages it took.
    fn asked(services: &[&'static Service], limit: usize) -> (Vec<ServiceDescription>, usize) {
        let (mut assembly, mut from, mut pages) = (Assembly::new(), Position::START, 0);
        loop {
            let bytes = bytes(&Page::of(services, from, limit));
            assert!(bytes.len() <= limit, "{} bytes, {limit} are allowed", bytes.len());
            pages += 1;
            match assembly.add(from, postcard::from_bytes(&bytes).unwrap()) {
                Ok(Some(next)) => from = next,
                Ok(None) => return (assembly.finish(), pages),
                Err(why) => panic!("page {pages}: {why}"),
            }
        }
    }

    #[test]
    fn pages_of_any_size_make_up_what_is_offered() {
        let offered: Vec<_> = SERVICES.iter().map(|service| ServiceDescription::from(*service)).collect();
        let mut pages_before = usize::MAX;
        for limit in [200, 300, 400, 500, 1000, 100_000] {
            let (described, pages) = asked(SERVICES, limit);
            assert_eq!(described, offered, "pages of {limit} bytes");
            assert!(pages <= pages_before);
            pages_before = pages;
        }
        assert_eq!(pages_before, 1);
        assert_eq!(asked(SERVICES, 200).1, 3, "Empty, put; replace, pinned; Empty, put");
        assert_eq!(asked(&[], 100), (Vec::new(), 1));
    }

    #[test]
    fn a_method_longer_than_a_page_goes_without_its_signature() {
        let (described, _) = asked(SERVICES, 120);
        let names = |services: &[ServiceDescription]| {
            let methods = services.iter().flat_map(|service| &service.methods);
            methods.map(|method| (method.name.clone(), method.signature.is_some())).collect::<Vec<_>>()
        };
        let without = ["put", "replace", "pinned", "put"].map(|name| (name.to_owned(), false));
        assert_eq!(names(&described), without);
    }

    #[test]
    fn a_page_is_closed_in_time() {
        let many = vec![described_method("Many", "put", &PUT, false, false); 1000].leak();
        let many = Box::leak(Box::new(service("Many", many)));
        let first = Page::of(&[many], Position::START, usize::MAX);
        assert!((USUAL_PAGE - 200..=USUAL_PAGE).contains(&bytes(&first).len()));
        assert_eq!(asked(&[many], 1 << 20).0[0].methods.len(), 1000);
    }

    #[test]
    fn a_question_behind_the_end_has_an_empty_answer() {
        for from in [Position::new(4, 0), Position::new(3, 1), Position::new(3, usize::MAX)] {
            let page = Page::of(SERVICES, from, 1000);
            assert!(page.services.is_empty() && page.next.is_none());
        }
    }

    /// What changes here needs an id of its own, which it gets; but peers of other versions no longer
    /// understand each other.
    #[test]
    fn the_built_in_method_is_what_it_was() {
        assert_eq!(DESCRIBE_ID.to_string(), "0x60b7182c868e6ad3");
        let page = Page::of(&[&BETA], Position::START, 1000);
        let text: String = bytes(&page).iter().flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
        let expected = r"\x01\x04Beta\x01\x03put\xd0\xa6\xd4\xad\xa3\x91\xaf\x94\x1b\x00\x00\x01\n\x00\x00\x11\x00\x00\t\x00\x00\x0f\x00\x03\x02\x01\x02\x00\x02\x03\x00\x00\x01\x00\x01\x05\x01\x03Row\x06\x03\x03key\x00\x06values\x04\x07deleted\x06\x00\x00\n\x00\x00\x0b\x02\x03row\x07\x02at\x08\t\x01\x07\x00";
        assert_eq!(text, expected);
    }

    fn part(name: &str, methods: usize) -> ServiceOnWire {
        let method =
            MethodOnWire { name: "m".into(), id: 1, inline: false, idempotent: false, signature: None };
        ServiceOnWire { name: name.into(), methods: vec![method; methods] }
    }

    #[test]
    fn pages_that_do_not_continue_are_refused() {
        let at = Position::new;
        let page = |services: &[ServiceOnWire], next| Page { services: services.to_vec(), next };
        let after_first = |asked, second: Page| {
            let mut assembly = Assembly::new();
            let first = page(&[part("A", 0), part("B", 2)], Some(asked));
            assert_eq!(assembly.add(Position::START, first), Ok(Some(asked)));
            assembly.add(asked, second).map(|next| (assembly.finish().len(), next))
        };
        assert_eq!(after_first(at(1, 2), page(&[part("B", 1), part("C", 1)], None)), Ok((3, None)));
        assert_eq!(after_first(at(2, 0), page(&[part("B", 1)], Some(at(2, 1)))), Ok((3, Some(at(2, 1)))));
        for (asked, second) in [
            (at(1, 2), page(&[part("A", 1)], None)),
            (at(1, 2), page(&[part("B", 1)], Some(at(1, 2)))),
            (at(1, 2), page(&[part("B", 1)], Some(at(0, 9)))),
            (at(1, 2), page(&[], Some(at(2, 0)))),
        ] {
            assert_eq!(after_first(asked, second), Err(Unreadable::Page));
        }
        assert_eq!(Assembly::new().add(at(0, 1), page(&[part("A", 1)], None)), Err(Unreadable::Page));
    }

    #[test]
    fn a_description_without_end_is_refused() {
        // Many pages with nothing new on them.
        let (mut assembly, mut pages) = (Assembly::new(), 0);
        let endless = |pages| Page { services: vec![part("A", 0)], next: Some(Position::new(0, pages + 1)) };
        while assembly.add(Position::new(0, pages), endless(pages)).is_ok() {
            pages += 1;
            assert!(pages <= MAX_DESCRIPTION / COST_OF_A_PAGE);
        }
        // Few pages with much on them.
        let mut assembly = Assembly::new();
        let large = Page { services: vec![part("A", 200_000)], next: None };
        assert_eq!(assembly.add(Position::START, large), Err(Unreadable::Size));
    }

    proptest! {
        /// Whatever a peer answers: it is refused, or it can be shown and compared.
        #[test]
        fn a_page_with_wrong_bytes_is_refused_or_understood(
            at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            static OLD: Signature =
                signature(&["row", "at"], &[Row::SCHEMA, u16::SCHEMA], u64::SCHEMA, Some(Row::SCHEMA));
            static METHOD: Method = described_method("Beta", "put", &OLD, false, false);
            static OTHER: Method = described_method("Beta", "puts", &OLD, false, false);
            let mut bytes = bytes(&Page::of(&[&BETA], Position::START, 1000));
            for (index, byte) in at {
                *index.get_mut(&mut bytes) = byte;
            }
            let Ok(page) = postcard::from_bytes::<Page>(&bytes) else { return Ok(()) };
            let mut assembly = Assembly::new();
            if assembly.add(Position::START, page).is_ok() {
                let offered = assembly.finish();
                for service in &offered {
                    let shown = format!("{service}{service:#}");
                    prop_assert!(shown.starts_with("service "));
                }
                for method in [&METHOD, &OTHER, &ALPHA.methods[0]] {
                    prop_assert!(!Explanation::of(method, &offered).to_string().is_empty());
                }
            }
        }
    }
}
