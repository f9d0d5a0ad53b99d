from morpheus_site.html import STYLES, accessible, digest_of, style_sheet, with_absolute_addresses, without_inline


def test_inline_scripts_and_styles_become_files_named_by_their_content() -> None:
    extracted: dict[str, bytes] = {}
    page = "<head><style>\n a { b: c }\n</style></head><script>\n run();\n</script><script src='x'></script>"
    text = without_inline(page, extracted, {})
    names = {digest_of(b"a { b: c }\n"): b"a { b: c }\n", digest_of(b"run();\n"): b"run();\n"}
    assert {address.rpartition("-")[2].partition(".")[0]: content for address, content in extracted.items()} == names
    assert all(f'"{address}"' in text for address in extracted)
    assert "run()" not in text
    assert "a { b" not in text
    assert "<script src='x'></script>" in text


def test_style_attributes_become_rules_and_what_looks_like_one_in_a_text_stays() -> None:
    attributes: dict[str, str] = {}
    text = without_inline('<head></head><col style="width: 5%"/><p>a style="b" c</p>', {}, attributes)
    assert list(attributes.values()) == ["width: 5%"]
    [name] = attributes
    assert f'<col data-style="{name}"/>' in text
    assert '<p>a style="b" c</p>' in text
    assert f'href="{STYLES}"' in text
    assert style_sheet(attributes) == f'[data-style="{name}"] {{ width: 5% }}\n'.encode()


def test_addresses_begin_with_a_slash_and_have_no_slash_at_the_end() -> None:
    def served(address: str) -> str:
        return with_absolute_addresses(f'<a href="{address}">', "/docs/api/auth/login/", {"/docs/_static/x.css": "abc"})

    assert served("../logout/") == '<a href="/docs/api/auth/logout">'
    assert served("../../../#top") == '<a href="/docs#top">'
    assert served("../../../_static/x.css?v=1") == '<a href="/docs/_static/x.css?v=abc">'
    assert served("#here") == '<a href="#here">'
    assert served("/openapi.json") == '<a href="/openapi.json">'
    assert served("https://example.com/") == '<a href="https://example.com/">'


def test_what_scrolls_can_be_reached_by_keyboard_and_captions_have_a_level() -> None:
    assert accessible("<pre>") == '<pre tabindex="0">'
    assert 'aria-level="2"' in accessible('<p class="caption" role="heading">')
