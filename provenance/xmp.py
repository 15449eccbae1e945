"""What a clip says of itself as XMP, the metadata that pictures of several formats share."""

from __future__ import annotations

from collections.abc import Mapping

# The term of the press agencies' vocabulary for "made by a trained model", which sites that label such pictures look for.
MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def xmp_packet(metadata: Mapping[str, str]) -> bytes:
    """Return an XMP packet, UTF-8, that marks a picture as made by a model.

    metadata: `title`, `description` and `comment` are kept, the last as it is in exif:UserComment.
    """
    places = {"title": "dc:title", "description": "dc:description", "comment": "exif:UserComment"}
    properties = "".join(
        f'<{tag}><rdf:Alt><rdf:li xml:lang="x-default">{_text(metadata[key])}</rdf:li></rdf:Alt></{tag}>'
        for key, tag in places.items()
        if key in metadata
    )
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        "<xmp:CreatorTool>edgereel</xmp:CreatorTool>"
        f"<Iptc4xmpExt:DigitalSourceType>{MADE_BY_A_MODEL}</Iptc4xmpExt:DigitalSourceType>{properties}"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode(errors="replace")


def _text(value: str) -> str:
    # XML has no way at all to write the other control characters.
    kept = "".join(character if character >= " " or character in "\t\n\r" else "\ufffd" for character in value)
    return kept.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
