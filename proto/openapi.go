// Package proto holds the definition of the API, its generated Go code (in
// bedplate/v1) and its OpenAPI description. There is no logic in it.
package proto

import _ "embed" // for OpenAPI

// OpenAPI is the description of the REST API (OpenAPI 2.0, JSON).
//
//go:embed bedplate.swagger.json
var OpenAPI string
