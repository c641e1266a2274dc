"""Parent kits: a kit whose model is another kit's, followed to the kit that has the model.

As in `kit unpack`, only the model and its parts come from a parent. The Kitfiles' models are merged as in
`kit dev`: what the child states counts first.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest

from gateway.errors import InvalidKitfile
from gateway.kits.kit import Kit
from gateway.kits.kitfile import Model
from gateway.kits.limits import MAX_PARENTS
from gateway.oci.reference import (
    Digest,
    LayoutReference,
    LocalReference,
    Reference,
    RegistryReference,
    parse_reference,
)

_ANY_DIGEST = Digest.of(b"")


def with_parents(kit: Kit, describe: Callable[[Reference, Kit], Kit]) -> Kit:
    """Return the kit with its parents, nearest first.

    `describe` returns the kit that a reference in a child's Kitfile means. Raises InvalidKitfile for a chain
    that is too long or circular, and what `describe` raises.
    """
    chain = [kit]
    while (parent := chain[-1].kitfile.parent) is not None:
        names = " → ".join(str(link.reference) for link in chain)
        if len(chain) > MAX_PARENTS:
            raise InvalidKitfile(
                f"{kit.reference}: its chain of parent kits is longer than {MAX_PARENTS}: {names} → {parent}"
            )
        check_parent(kit.reference, parse_reference(parent))
        parent_kit = describe(parse_reference(parent), chain[-1])
        if any(parent_kit.digest == link.digest for link in chain):
            raise InvalidKitfile(
                f"{kit.reference}: its parent kits form a circle: {names} → {parent}; pack it again"
            )
        chain.append(parent_kit)
    return attach_parents(kit, tuple(chain[1:]))


def check_parent(kit: Reference, parent: Reference) -> None:
    """Check that a kit of a registry has its parents in registries, and not in storage of this machine.

    Raises:
        InvalidKitfile: where its author would choose which private kit is served with theirs.
    """
    if isinstance(kit, RegistryReference) and not isinstance(parent, RegistryReference):
        raise InvalidKitfile(
            f"{kit}: its parent {parent} is on this machine, and a kit of a registry has its parents in "
            "registries; push the parent, and pack the kit again with that reference"
        )


def check_chain(kit: Kit) -> None:
    """Check that the parents of a kit are those that the Kitfiles name, whatever digests these have.

    Raises:
        InvalidKitfile: where somebody else chose them, or a Kitfile names another one by now.
    """
    for child, parent in zip_longest(kit.chain, kit.parents):
        stated = None if child.kitfile.parent is None else parse_reference(child.kitfile.parent)
        if stated is None and parent is None:
            continue
        if stated is None or parent is None or not _is_named(parent, stated, child):
            raise InvalidKitfile(
                f"{kit.reference}: by its Kitfile, {child.reference} has the parent {stated or 'none'}, and "
                f"by the config or its lock {parent.reference if parent else 'none'}; `kitserve lock "
                "--upgrade` looks it up again"
            )


def _is_named(parent: Kit, stated: Reference, child: Kit) -> bool:
    """Tell whether a parent is what a child's Kitfile names, in a registry or beside the child."""
    names = {_name(reference) for reference in (stated, *local_references(child.reference, stated))}
    return _name(parent.reference) in names and stated.digest in (None, parent.digest)


def _name(reference: Reference) -> Reference:
    """Return a reference as it is without its tag and variant, for any digest."""
    return replace(reference, tag=None, variant=None, digest=_ANY_DIGEST)


def local_references(child: Reference, parent: Reference) -> tuple[Reference, ...]:
    """Return the references that a parent may have in the layout or local storage of its child.

    kit looks into its own storage first, too: what was packed on a laptop needs no registry.
    """
    if not isinstance(parent, RegistryReference):
        return ()
    if isinstance(child, LocalReference):
        return (LocalReference(parent.host, parent.repository, parent.tag, parent.digest),)
    if isinstance(child, LayoutReference):
        names = (f"{parent.host}/{parent.repository}", parent.repository)
        return tuple(LayoutReference(child.path, name, parent.tag, parent.digest) for name in names)
    return ()


def attach_parents(kit: Kit, parents: tuple[Kit, ...]) -> Kit:
    """Return the kit with these parents, nearest first, and the model of the last one."""
    if not parents:
        return kit
    parents = tuple(replace(parent, system_prompt=None) for parent in parents)
    return replace(kit, parents=parents, model_name=parents[-1].model_name)


def model_of(kit: Kit) -> Model | None:
    """Return the model as the Kitfiles of the kit and its parents state it, the child's values first."""
    models = [link.kitfile.model for link in kit.chain if link.kitfile.model is not None]
    if not models:
        return None
    values = {
        name: next((value for model in models if (value := getattr(model, name))), None)
        for name in ("name", "description", "license", "framework", "format", "version", "parameters")
    }
    return models[-1].model_copy(
        update={**values, "parts": tuple(part for model in models for part in model.parts)}
    )
