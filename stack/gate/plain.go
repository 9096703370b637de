package gate

import (
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// client returns what makes requests to any path: logs of pods, and services
// by way of the API server.
func client(c *rest.Config) (*rest.RESTClient, error) {
	c = dynamic.ConfigFor(c)
	c.APIPath = "/"
	c.GroupVersion = nil
	return rest.UnversionedRESTClientFor(c)
}
