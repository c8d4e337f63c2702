//! What a trait says of its service and methods, and what only shows when they are called.
#![cfg(feature = "macros")]
#![allow(missing_docs)]

mod common;

use adjoin::{CallError, MethodId, Options, Rx, channel, local};
use common::watchdog::Watchdog;

#[adjoin::service(name = "shop/v1")]
trait Shop {
    async fn order(&self, item: String) -> u64;
    #[adjoin(id = 0x1122_3344_5566_7788, idempotent)]
    async fn price(&self, item: String) -> u64;
    #[adjoin(inline)]
    #[adjoin(idempotent)]
    async fn stock(&self, item: String) -> u64;
    /// Its error type holds a stream, which nobody can see: under a pinned id, types have no schema.
    #[adjoin(id = 7)]
    async fn complain(&self, streams: bool) -> Result<u64, Option<Rx<u64>>>;
}

struct Corner;

impl Shop for Corner {
    async fn order(&self, item: String) -> u64 {
        item.len() as u64
    }

    async fn price(&self, _item: String) -> u64 {
        2
    }

    async fn stock(&self, _item: String) -> u64 {
        3
    }

    async fn complain(&self, streams: bool) -> Result<u64, Option<Rx<u64>>> {
        Err(streams.then(|| channel().1))
    }
}

#[test]
fn what_the_attributes_say_a_method_says() {
    let said = |method: &adjoin::Method| (method.service, method.name, method.inline, method.idempotent);
    assert_eq!(said(ShopClient::ORDER), ("shop/v1", "order", false, false));
    assert_eq!(said(ShopClient::PRICE), ("shop/v1", "price", false, true));
    assert_eq!(said(ShopClient::STOCK), ("shop/v1", "stock", true, true));
    assert_eq!(ShopClient::PRICE.id, MethodId::new(0x1122_3344_5566_7788));
    assert_eq!(ShopClient::SERVICE.name, "shop/v1");
    assert_eq!(ShopClient::SERVICE.methods.len(), 4);
}

#[tokio::test]
async fn a_stream_in_an_error_under_a_pinned_id_costs_its_own_call() {
    let _hang = Watchdog::seconds(60);
    let (client, _server) = local::pair(Options::new(), Options::new().serve(ShopDispatcher::new(Corner)));
    let shop = ShopClient::new(&client);
    assert!(matches!(shop.complain(false).await, Err(CallError::User(None))));
    assert!(matches!(shop.complain(true).await, Err(CallError::Cancelled)));
    assert_eq!(shop.order("salt".into()).await.unwrap(), 4, "the connection stays open");
}
