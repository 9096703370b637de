package redfish

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"slices"
	"strconv"

	"github.com/bedplate/bedplate/lab/board"
)

var secureBootRoutes = []entry{
	{"/Systems/1/SecureBoot", route{methods: getPatch(getSecureBoot, patchSecureBoot)}},
	{"/Systems/1/SecureBoot/Actions/SecureBoot.ResetKeys", route{methods: post(postResetKeys)}},
	{"/Systems/1/SecureBoot/SecureBootDatabases", route{methods: get(getDatabases)}},
	{"/Systems/1/SecureBoot/SecureBootDatabases/{}", route{methods: get(getDatabase)}},
	{"/Systems/1/SecureBoot/SecureBootDatabases/{}/Actions/SecureBootDatabase.ResetKeys", route{methods: post(postResetDatabase)}},
	{"/Systems/1/SecureBoot/SecureBootDatabases/{}/Certificates", route{methods: getPost(getCertificates, postCertificate)}},
	{"/Systems/1/SecureBoot/SecureBootDatabases/{}/Certificates/{}", route{methods: get(getCertificate)}},
	{"/Systems/1/SecureBoot/SecureBootDatabases/{}/Signatures", route{methods: get(getSignatures)}},
	{"/Systems/1/SecureBoot/SecureBootDatabases/{}/Signatures/{}", route{methods: get(getSignature)}},
}

const secureBootPath = "/Systems/1/SecureBoot"

// databases are the names of Secure Boot's, in Redfish's order.
var databases = []string{"PK", "KEK", "db", "dbx"}

func (c *call) secureBoot() (object, error) {
	s, err := c.b.SecureBoot()
	if err != nil {
		return nil, errNotFound(c.path)
	}
	pending := c.b.PendingSecureBoot()
	enable := s.Enforced
	if pending.Enable != nil {
		enable = *pending.Enable
	}
	o := c.resource("SecureBoot", "v1_1_0", "SecureBoot", "UEFI Secure Boot")
	o["SecureBootEnable"] = enable
	o["SecureBootCurrentBoot"] = map[bool]string{true: "Enabled", false: "Disabled"}[s.Enforced]
	o["SecureBootMode"] = map[bool]string{true: "SetupMode", false: "UserMode"}[s.SetupMode]
	o["SecureBootDatabases"] = ref(secureBootPath + "/SecureBootDatabases")
	o["Actions"] = object{"#SecureBoot.ResetKeys": action(secureBootPath+"/Actions/SecureBoot.ResetKeys", object{
		"ResetKeysType@Redfish.AllowableValues": board.KeyResets,
	})}
	return o, nil
}

func getSecureBoot(c *call) error {
	o, err := c.secureBoot()
	if err != nil {
		return err
	}
	return c.show(o)
}

func patchSecureBoot(c *call) error {
	o, err := c.secureBoot()
	if err != nil {
		return err
	}
	if err := c.matches(o); err != nil {
		return err
	}
	var body struct{ SecureBootEnable *bool }
	if err := c.read(&body); err != nil {
		return err
	}
	if body.SecureBootEnable == nil {
		return errMissing("SecureBootEnable")
	}
	if err := c.b.EnableSecureBoot(c.Context(), *body.SecureBootEnable); err != nil {
		return err
	}
	return getSecureBoot(c)
}

func postResetKeys(c *call) error { return c.resetKeys("", "SecureBoot.ResetKeys") }

func postResetDatabase(c *call) error {
	if _, err := c.keys(); err != nil {
		return err
	}
	return c.resetKeys(c.vars[0], "SecureBootDatabase.ResetKeys")
}

func (c *call) resetKeys(database, name string) error {
	if _, err := c.secureBoot(); err != nil {
		return err
	}
	var body struct{ ResetKeysType *board.KeyReset }
	if err := c.read(&body); err != nil {
		return err
	}
	if body.ResetKeysType == nil {
		return errParameter(name, "ResetKeysType")
	}
	if !slices.Contains(board.KeyResets, *body.ResetKeysType) {
		return errValue(string(*body.ResetKeysType), "ResetKeysType")
	}
	if err := c.b.ResetKeys(c.Context(), database, *body.ResetKeysType); err != nil {
		return err
	}
	return c.done()
}

func databasePath(name string) string { return secureBootPath + "/SecureBootDatabases/" + name }

func getDatabases(c *call) error {
	if _, err := c.secureBoot(); err != nil {
		return err
	}
	var members []string
	for _, d := range databases {
		members = append(members, databasePath(d))
	}
	return c.collection("SecureBootDatabaseCollection", "UEFI Secure Boot Databases", members...)
}

// keys are the entries of the database that the path is about.
func (c *call) keys() ([]board.Key, error) {
	s, err := c.b.SecureBoot()
	if err != nil || !slices.Contains(databases, c.vars[0]) {
		return nil, errNotFound(c.path)
	}
	return s.Databases[c.vars[0]], nil
}

func getDatabase(c *call) error {
	if _, err := c.keys(); err != nil {
		return err
	}
	o := c.resource("SecureBootDatabase", "v1_0_1", c.vars[0], c.vars[0]+" Database")
	o["DatabaseId"] = c.vars[0]
	o["Certificates"], o["Signatures"] = ref(databasePath(c.vars[0])+"/Certificates"), ref(databasePath(c.vars[0])+"/Signatures")
	o["Actions"] = object{"#SecureBootDatabase.ResetKeys": action(databasePath(c.vars[0])+"/Actions/SecureBootDatabase.ResetKeys", object{
		"ResetKeysType@Redfish.AllowableValues": []board.KeyReset{board.ResetAllKeysToDefault, board.DeleteAllKeys},
	})}
	return c.show(o)
}

// members lists certificates or hashes; their IDs are their places in the database.
func (c *call) members(kind, part string, wanted func(board.Key) bool) error {
	keys, err := c.keys()
	if err != nil {
		return err
	}
	var members []string
	for i, k := range keys {
		if wanted(k) {
			members = append(members, databasePath(c.vars[0])+"/"+part+"/"+strconv.Itoa(i+1))
		}
	}
	return c.collection(kind, part, members...)
}

func isCertificate(k board.Key) bool { return k.Certificate != nil }

func getCertificates(c *call) error {
	return c.members("CertificateCollection", "Certificates", isCertificate)
}

func getSignatures(c *call) error {
	return c.members("SignatureCollection", "Signatures", func(k board.Key) bool { return !isCertificate(k) })
}

// key is the entry that the path is about.
func (c *call) key(certificate bool) (board.Key, error) {
	keys, err := c.keys()
	if err != nil {
		return board.Key{}, err
	}
	i, err := strconv.Atoi(c.vars[1])
	if err != nil || i < 1 || i > len(keys) || isCertificate(keys[i-1]) != certificate {
		return board.Key{}, errNotFound(c.path)
	}
	return keys[i-1], nil
}

func getCertificate(c *call) error {
	k, err := c.key(true)
	if err != nil {
		return err
	}
	o := c.resource("Certificate", "v1_5_0", c.vars[1], "Certificate "+c.vars[1])
	o["CertificateString"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.Certificate}))
	o["CertificateType"], o["CertificateUsageTypes"] = "PEM", []string{"BIOS"}
	if cert, err := x509.ParseCertificate(k.Certificate); err == nil {
		o["Subject"], o["Issuer"] = object{"CommonName": cert.Subject.CommonName}, object{"CommonName": cert.Issuer.CommonName}
		o["ValidNotBefore"], o["ValidNotAfter"] = cert.NotBefore.UTC().Format(timeFormat), cert.NotAfter.UTC().Format(timeFormat)
	}
	return c.show(o)
}

func getSignature(c *call) error {
	k, err := c.key(false)
	if err != nil {
		return err
	}
	o := c.resource("Signature", "v1_0_2", c.vars[1], "Signature "+c.vars[1])
	o["SignatureString"], o["SignatureType"], o["SignatureTypeRegistry"] = k.Hash, "EFI_CERT_SHA256_GUID", "UEFI"
	return c.show(o)
}

func postCertificate(c *call) error {
	if _, err := c.keys(); err != nil {
		return err
	}
	var body struct{ CertificateString, CertificateType *string }
	if err := c.read(&body); err != nil {
		return err
	}
	if body.CertificateString == nil || body.CertificateType == nil {
		return errMissing("CertificateString, CertificateType")
	}
	block, _ := pem.Decode([]byte(*body.CertificateString))
	if block == nil || *body.CertificateType != "PEM" {
		return errValue(*body.CertificateType, "CertificateType")
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return errValue("(a certificate)", "CertificateString")
	}
	if err := c.b.Enrol(c.Context(), c.vars[0], block.Bytes); err != nil {
		return err
	}
	// It is there after the next boot.
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}
