"""The KFP adapter of deploy."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.LIGHT, install_kfp_package=False)
def deploy(
    model_name: str,
    version: str,
    champion: str,
    bucket: str,
    server_url: str,
    inference_service: str,
    settings: dict,
) -> None:
    """Make a registered version, proven better than `champion`, the one that is served.

    It is champion once the server answers with it.
    """
    from components import config, tracking
    from components.deployment import deploy as step
    from components.storage import ObjectStore

    step.deploy(
        ObjectStore(bucket), tracking.version(model_name, version), compared_with=champion, server_url=server_url,
        inference_service=inference_service, settings=config.load(None, settings).deployment,
    )  # fmt: skip
