package metadata

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"mime/multipart"
	"net/textproto"
	"net/url"
	"strings"

	"go.yaml.in/yaml/v3"
)

// phoneHomeTries is how often cloud-init calls, 3 s apart in version 22.4.
const phoneHomeTries = 20

// vendorData is what cloud-init is to do for us, beside what the document has.
func vendorData(doc Document, callURL string) ([]byte, error) {
	if u, err := url.Parse(callURL); err != nil || u.Host == "" {
		return nil, fmt.Errorf("phone-home URL %q has no host: configure the HTTP base URL", callURL)
	}
	own, err := phoneHomePart(doc, callURL)
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(doc.VendorData)) == 0 {
		return own, nil
	}
	return multipartOf(doc.VendorData, own)
}

// phoneHomePart has the machine call when its first boot is done: as cloud-config,
// which cloud-init does last of all, or as a script where the user's or the
// vendor's own phone_home would take its place.
func phoneHomePart(doc Document, callURL string) ([]byte, error) {
	if hasPhoneHome(doc.UserData) || hasPhoneHome(doc.VendorData) {
		return phoneHomeScript(doc, callURL), nil
	}
	type phoneHome struct {
		URL   string   `yaml:"url"`
		Post  []string `yaml:"post"`
		Tries int      `yaml:"tries"`
	}
	config, err := yaml.Marshal(map[string]phoneHome{"phone_home": {
		URL: callURL, Tries: phoneHomeTries,
		Post: []string{"pub_key_rsa", "pub_key_ecdsa", "pub_key_ed25519", "instance_id", "hostname", "fqdn"},
	}})
	if err != nil {
		return nil, err
	}
	return append([]byte("#cloud-config\n"), config...), nil
}

// hasPhoneHome reports whether data may hold a phone_home of its own. Data that is
// compressed, or that only says where more is, cannot be looked into: it may.
func hasPhoneHome(data []byte) bool {
	return bytes.Contains(data, []byte("phone_home")) || bytes.HasPrefix(data, []byte{0x1f, 0x8b}) ||
		bytes.Contains(data, []byte("#include")) || bytes.Contains(data, []byte("Content-Transfer-Encoding: base64"))
}

// phoneHomeScript calls once the user's cloud-config is done, before the user's
// own scripts. It is Python as cloud-init is, whose interpreter is there then.
func phoneHomeScript(doc Document, callURL string) []byte {
	var b strings.Builder
	b.WriteString(`#!/usr/bin/env python3
# Bedplate: tells the server that the first boot is done.
import socket, time, urllib.parse, urllib.request
`)
	fmt.Fprintf(&b, "url, instance_id = %s, %s\n", pythonString(callURL), pythonString(doc.InstanceID))
	b.WriteString(`fields = {"instance_id": instance_id, "hostname": socket.gethostname(), "fqdn": socket.getfqdn()}
for kind in "rsa", "ecdsa", "ed25519":
    try:
        with open("/etc/ssh/ssh_host_%s_key.pub" % kind) as f:
            fields["pub_key_" + kind] = f.read()
    except OSError:
        pass
`)
	fmt.Fprintf(&b, "for attempt in range(%d):\n", phoneHomeTries)
	b.WriteString(`    try:
        urllib.request.urlopen(url, urllib.parse.urlencode(fields).encode(), timeout=10).read()
        break
    except OSError as e:
        print("Bedplate: %s: %s" % (url, e))
        time.sleep(3)
`)
	return []byte(b.String())
}

// pythonString writes s as a Python literal of printable ASCII.
func pythonString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		if r >= 0x20 && r <= 0x7e && r != '"' && r != '\\' {
			b.WriteRune(r)
			continue
		}
		fmt.Fprintf(&b, `\U%08x`, r)
	}
	b.WriteByte('"')
	return b.String()
}

// multipartOf joins parts as MIME multipart (cloud-init's "MIME multi-part
// archive"). cloud-init tells what a text/plain part is by its first line.
func multipartOf(parts ...[]byte) ([]byte, error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	sum := sha256.Sum256(bytes.Join(parts, nil))
	if err := w.SetBoundary("bedplate-" + hex.EncodeToString(sum[:16])); err != nil {
		return nil, fmt.Errorf("joining vendor data: %w", err)
	}
	fmt.Fprintf(&b, "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=%q\n\n", w.Boundary())
	for _, part := range parts {
		p, err := w.CreatePart(textproto.MIMEHeader{"Content-Type": {`text/plain; charset="utf-8"`}})
		if err != nil {
			return nil, fmt.Errorf("joining vendor data: %w", err)
		}
		if _, err := p.Write(part); err != nil {
			return nil, fmt.Errorf("joining vendor data: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("joining vendor data: %w", err)
	}
	return b.Bytes(), nil
}
