//! The binary.

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(zk), Some(http)) = (args.next(), args.next(), args.next()) else {
        anyhow::bail!("usage");
    };
    let settings = quorate::serve::Settings {
        data_dir: dir.into(),
        listen: zk,
        http,
        limits: Default::default(),
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(quorate::serve::serve(
        settings,
        |ready| println!("ready {ready:?}"),
        async {
            let _ = tokio::signal::ctrl_c().await;
        },
    ))
}
