package resource

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Validate looks at every field of obj on its own, and at fields of one
// resource together; whether what it names exists is not its business. What it
// finds is a *FieldErrors.
func Validate(obj Object) error {
	kind := KindOf(obj)
	errs := &FieldErrors{Kind: kind.Name, Name: obj.GetMetadata().GetName()}
	if err := validateRules(obj, errs); err != nil {
		return err
	}
	checkMetadata(obj.GetMetadata(), errs)
	checkSpec(obj, errs)
	if len(errs.Errors) == 0 {
		return nil
	}
	errs.Errors = dedupe(errs.Errors)
	return errs
}

// dedupe leaves out all but the first error of a field.
func dedupe(errs []FieldError) []FieldError {
	seen := map[string]bool{}
	return slices.DeleteFunc(errs, func(e FieldError) bool {
		was := seen[e.Path]
		seen[e.Path] = true
		return was
	})
}

// validateRules applies the rules that the proto files carry.
func validateRules(obj Object, errs *FieldErrors) error {
	err := protovalidate.Validate(obj)
	if err == nil {
		return nil
	}
	var violations *protovalidate.ValidationError
	if !errors.As(err, &violations) {
		return fmt.Errorf("validating %s: %w", KindOf(obj).Singular, err)
	}
	for _, v := range violations.Violations {
		errs.add(violationPath(v.Proto.GetField()), "%s", violationMessage(v))
	}
	return nil
}

// violationPath writes a path as people do: spec.inputs.image, not spec.inputs["image"].
func violationPath(p *validate.FieldPath) string {
	path := ""
	for _, e := range p.GetElements() {
		path = joinField(path, e.GetFieldName())
		switch e.WhichSubscript() {
		case validate.FieldPathElement_Index_case:
			path = joinIndex(path, int(e.GetIndex()))
		case validate.FieldPathElement_StringKey_case:
			path = joinKey(path, e.GetStringKey())
		}
	}
	return path
}

// patternMessage says in words what a pattern means, by the field's full name.
func patternMessage(field string) string {
	switch strings.TrimPrefix(field, "bedplate.v1.") {
	case "Metadata.name":
		return ErrName.Error()
	case "MachineSpec.uuid":
		return "not a UUID in lower case such as 8f7c0a3e-52b1-4d0c-9d3c-0a1b2c3d4e5f"
	case "Interface.mac", "NetworkLink.mac":
		return "not a MAC address such as 52:54:00:77:00:01"
	case "NetworkLink.name":
		return "not an interface's name: at most 15 letters, digits, _ . and -, beginning with a letter, a digit or _"
	case "ImageSpec.digest":
		return "not a digest: sha256: and 64 hexadecimal digits in lower case"
	case "ImageFile.mode":
		return "not permissions in octal such as \"0600\""
	case "StorageDisk.name", "StoragePartition.name", "StorageEncryption.name":
		return "not a name: letters, digits, _ and -, beginning with a letter or digit"
	case "StorageRaid.name":
		return "not a name: letters, digits, _ and -, beginning with a letter"
	case "StorageVolumeGroup.name", "StorageLogicalVolume.name":
		return "not a name: letters, digits, _ + . and -, beginning with a letter or digit"
	case "Step.id":
		return "not an identifier: letters, digits, _ and -, beginning with a letter or _"
	case "key of data":
		return "not a key: letters, digits, _, ., : and -, beginning with a letter, a digit or _"
	}
	return ""
}

// fieldName is the full name of the field that was looked at; for a map's key,
// which has no descriptor, `key of` and the map's own.
func fieldName(v *protovalidate.Violation) string {
	if v.FieldDescriptor != nil {
		return string(v.FieldDescriptor.FullName())
	}
	elements := v.Proto.GetField().GetElements()
	if len(elements) == 0 {
		return ""
	}
	return "key of " + elements[len(elements)-1].GetFieldName()
}

func violationMessage(v *protovalidate.Violation) string {
	value := ""
	switch f := v.FieldValue.Interface().(type) {
	case string:
		if len(f) <= 64 {
			value = strconv.Quote(f) + ": "
		}
	case int32, int64, uint32, uint64:
		value = fmt.Sprintf("%d: ", f)
	}
	rule := v.Proto.GetRuleId()
	switch {
	case strings.HasSuffix(rule, "string.pattern"):
		if s, ok := v.FieldValue.Interface().(string); ok && s == "" {
			return "missing"
		}
		if m := patternMessage(fieldName(v)); m != "" {
			return value + m
		}
	case strings.HasSuffix(rule, "min_len") && value == `"": `:
		return "missing"
	case strings.HasSuffix(rule, "string.in") && v.RuleValue.IsValid():
		return value + "not one of " + choices(v)
	case rule == "enum.not_in" || rule == "enum.defined_only":
		return "missing, or not one that there is"
	}
	return value + strings.TrimPrefix(v.Proto.GetMessage(), "value ")
}

// choices lists what a string.in rule allows.
func choices(v *protovalidate.Violation) string {
	var out []string
	list := v.RuleValue.List()
	for i := range list.Len() {
		if s := list.Get(i).String(); s != "" {
			out = append(out, s)
		}
	}
	return strings.Join(out, ", ")
}

func checkMetadata(md *pb.Metadata, errs *FieldErrors) {
	if md.GetName() == "" {
		errs.add("metadata.name", "missing")
	}
	for _, k := range sortedKeys(md.GetLabels()) {
		if !isLabelText(k) || !isLabelText(md.GetLabels()[k]) {
			errs.add(joinKey("metadata.labels", k), "label keys and values are without spaces, commas, parentheses, = and !")
		}
	}
}

func checkSpec(obj Object, errs *FieldErrors) {
	m := obj.ProtoReflect()
	if fd := m.Descriptor().Fields().ByName("spec"); fd != nil && !m.Has(fd) {
		errs.add("spec", "missing")
		return
	}
	switch o := obj.(type) {
	case *pb.Machine:
		checkMachine(o.GetSpec(), errs)
	case *pb.Network:
		checkNetwork(o.GetSpec(), errs)
	case *pb.Image:
		checkImage(o.GetSpec(), errs)
	case *pb.Template:
		checkTemplate(o.GetSpec(), errs)
	case *pb.Workflow:
		checkDuration("spec.machine_timeout", o.GetSpec().GetMachineTimeout(), errs)
		checkReference("spec.machine", o.GetSpec().GetMachine(), errs)
		checkReference("spec.template", o.GetSpec().GetTemplate(), errs)
	case *pb.Instance:
		checkInstance(o.GetSpec(), errs)
	case *pb.Pool:
		checkPool(o.GetSpec(), errs)
	case *pb.Stack:
		checkStack(o.GetSpec(), errs)
	case *pb.Rule:
		checkRule(o.GetSpec(), errs)
	case *pb.Job:
		checkJob(o.GetSpec(), errs)
	case *pb.Token:
		if t := o.GetSpec().GetExpireTime(); t != nil && t.CheckValid() != nil {
			errs.add("spec.expire_time", "not a time")
		}
		for i, key := range o.GetSpec().GetSshKeys() {
			if !isSSHKey(key) {
				errs.add(joinIndex("spec.ssh_keys", i), "not an OpenSSH public key such as `ssh-ed25519 AAAA… name`")
			}
		}
	}
}

func checkImage(s *pb.ImageSpec, errs *FieldErrors) {
	checkFinish(s.GetFinish(), errs)
	checkLive(s, errs)
	if s.GetUrl() == "" {
		return
	}
	checkURL("spec.url", s.GetUrl(), errs)
}

func checkTemplate(s *pb.TemplateSpec, errs *FieldErrors) {
	checkDuration("spec.timeout", s.GetTimeout(), errs)
	for _, list := range []struct {
		path  string
		steps []*pb.Step
	}{{"spec.steps", s.GetSteps()}, {"spec.on_failure", s.GetOnFailure()}} {
		for i, step := range list.steps {
			path := joinIndex(list.path, i)
			checkDuration(path+".timeout", step.GetTimeout(), errs)
			checkDuration(path+".retries.backoff", step.GetRetries().GetBackoff(), errs)
		}
	}
}

func checkInstance(s *pb.InstanceSpec, errs *FieldErrors) {
	checkReference("spec.machine", s.GetMachine(), errs)
	checkReference("spec.image", s.GetImage(), errs)
	checkReference("spec.template", s.GetTemplate(), errs)
	if s.GetImage() == "" && s.GetTemplate() == "" {
		errs.add("spec.image", "missing: the image to install (or spec.template, if that needs none)")
	}
	if s.GetMachine() != "" && s.GetSelector() != "" {
		errs.add("spec.selector", "given together with spec.machine: only one of them picks the machine")
	}
	checkHostname("spec.hostname", s.GetHostname(), errs)
	checkStorage(s.GetStorage(), errs)
	checkConfiguration(s, errs)
	for i, key := range s.GetSshKeys() {
		if !isSSHKey(key) {
			errs.add(joinIndex("spec.ssh_keys", i), "not an OpenSSH public key such as `ssh-ed25519 AAAA… name`")
		}
	}
}

// isSSHKey looks at the form only: type, base64 that names the same type, on
// one line (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
func isSSHKey(key string) bool {
	fields := strings.Fields(key)
	if len(fields) < 2 || strings.ContainsAny(strings.TrimRight(key, "\n"), "\n\r\x00") {
		return false
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	return err == nil && len(blob) > 4+len(fields[0]) && string(blob[4:4+len(fields[0])]) == fields[0]
}

// maxDuration is the longest wait that any field may ask for.
const maxDuration = 366 * 24 * time.Hour

func checkDuration(path, text string, errs *FieldErrors) {
	if text == "" {
		return
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		errs.add(path, "%q: not a duration such as 90s, 20m or 1h30m", text)
	case d <= 0:
		errs.add(path, "%q: must be more than 0", text)
	case d > maxDuration:
		errs.add(path, "%q: longer than a year", text)
	}
}

// checkReference looks at the name of another resource; empty is no business of its own.
func checkReference(path, name string, errs *FieldErrors) {
	if name != "" && !ValidName(name) {
		errs.add(path, "%q: %v", name, ErrName)
	}
}

// checkHostname accepts host names by RFC 1123 §2.1.
func checkHostname(path, name string, errs *FieldErrors) {
	if name != "" && !isDNSName(name) {
		errs.add(path, "%q: not a host name (RFC 1123)", name)
	}
}

func isDNSName(name string) bool {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 {
		return false
	}
	for l := range strings.SplitSeq(name, ".") {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for _, c := range l {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
