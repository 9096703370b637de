// Package api is the control API: what people, CI jobs and portals talk to.
// One TLS port serves gRPC (the services of proto/bedplate/v1/api.proto), the
// same calls as REST with JSON, and their description at /openapi.json.
//
// # Calls
//
// A client gives metadata.name, labels and annotations, and the spec; status
// and the rest of metadata are the server's and passed over in requests.
// Every change is one transaction of the store: the resource, what is indexed
// of it, the event that says who did it, and the record that makes a repeated
// request_id harmless. It is durable before it is answered.
//
// An update that carries metadata.resource_version succeeds only on that
// version (else ABORTED); one without is applied to whatever is there. Wrong
// fields are INVALID_ARGUMENT with a google.rpc.BadRequest, whose paths are
// those of the resource (spec.interfaces[0].mac). A watch whose past is gone
// ends with OUT_OF_RANGE: list again.
//
// # Access
//
// A caller shows an API token as `authorization: Bearer bpt_…`. Tokens are
// looked up in memory by their SHA-256. What each call needs is in one table
// (roles.go). There are no anonymous calls but the OpenAPI description.
//
// # Limits
//
// Messages have at most 4 MiB, pages 1000 items and some 3 MiB, single calls
// 30 seconds; streams are bounded in number and end with the server, or at the
// next message after the token that began them has.
//
// gRPC is served through net/http, which tells it from REST on the same
// connection; keep-alive and limits of a connection are those of its HTTP/2.
package api
