package ipmi

import "strings"

// github.com/bougou/go-ipmi v0.9.1, what is worked around and where:
//   - Connect20 joins the errors of its tries as text, so that errors.Is finds
//     nothing: fault.go reads the text.
//   - Addresses are made as host:port, so an IPv6 address needs its brackets (address).
//   - GetSELEntry sends Get SEL Info before each record, and GetSELEntries fails for
//     an empty log: EventLog sends Get SEL Entry itself.
//   - SetBootParamBootFlags sends no flags where a BMC has no "set in progress"
//     (parameter 0, which is optional), and returns no error: RequestBoot sends them
//     alone, as ipmitool does.
//   - SetUserPayloadAccess drops its arguments (grant).
//   - Close panics the second time (Driver.Close).
//   - Some parsers index beyond what a BMC sent: Driver.do turns their panics into errors.

// isDeactivation reports whether the BMC has ended the console by itself (status
// bit 4 of a SOL packet, table 15-2).
func isDeactivation(err error) bool { return strings.Contains(err.Error(), "SOL deactivation") }
