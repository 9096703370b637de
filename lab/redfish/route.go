package redfish

import (
	"net/http"
	"slices"
	"strings"
)

// root is the path of the service root.
const root = "/redfish/v1"

// privilege is what a change needs (DSP0266 §13.6).
type privilege int

const (
	components privilege = iota // ConfigureComponents
	manager                     // ConfigureManager
	users                       // ConfigureUsers
	self                        // ConfigureSelf
)

// method answers one HTTP method of a resource.
type method func(c *call) error

// route is a resource, or one for each value of its {} segments.
type route struct {
	segments []string
	methods  map[string]method
	// write is what changing it needs.
	write privilege
	// open is read without a login.
	open bool
	// login is made without a login: POST is for making one.
	login bool
}

func (r *route) opens(method string) bool { return r.login && method == http.MethodPost }

func (r *route) allow() string {
	var all []string
	for m := range r.methods {
		all = append(all, m)
		if m == http.MethodGet {
			all = append(all, http.MethodHead)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// get and post make tables of methods.
func get(m method) map[string]method { return map[string]method{http.MethodGet: m} }

func post(m method) map[string]method { return map[string]method{http.MethodPost: m} }

func getPatch(g, p method) map[string]method {
	return map[string]method{http.MethodGet: g, http.MethodPatch: p}
}

func getPost(g, p method) map[string]method {
	return map[string]method{http.MethodGet: g, http.MethodPost: p}
}

func getDelete(g, d method) map[string]method {
	return map[string]method{http.MethodGet: g, http.MethodDelete: d}
}

// routes are all resources. Paths are relative to /redfish/v1.
var routes = compile(slices.Concat(serviceRoutes, systemRoutes, secureBootRoutes, managerRoutes, chassisRoutes, updateRoutes, eventRoutes))

type entry struct {
	path string
	route
}

func compile(all []entry) map[int][]*route {
	compiled := map[int][]*route{}
	for i := range all {
		r := &all[i].route
		r.segments = strings.Split(strings.Trim(root+all[i].path, "/"), "/")
		if strings.HasPrefix(all[i].path, "~") { // not below the root
			r.segments = strings.Split(strings.Trim(all[i].path[1:], "/"), "/")
		}
		compiled[len(r.segments)] = append(compiled[len(r.segments)], r)
	}
	return compiled
}

// find returns the resource at a path, and the values of its {} segments.
func find(path string) (*route, []string) {
	segments := strings.Split(strings.Trim(path, "/"), "/")
next:
	for _, r := range routes[len(segments)] {
		var vars []string
		for i, s := range r.segments {
			switch {
			case s == "{}":
				vars = append(vars, segments[i])
			case s != segments[i]:
				continue next
			}
		}
		return r, vars
	}
	return nil, nil
}

// Parts of resources that come again and again.

// ref is a link to a resource; path is relative to /redfish/v1.
func ref(path string) object { return object{"@odata.id": root + path} }

func refs(paths ...string) []object {
	all := make([]object, 0, len(paths))
	for _, p := range paths {
		all = append(all, ref(p))
	}
	return all
}

// resource is what every resource has.
func (c *call) resource(kind, version, id, name string) object {
	return object{"@odata.id": c.path, "@odata.type": "#" + kind + "." + version + "." + kind, "Id": id, "Name": name}
}

// collection answers with links to its members.
func (c *call) collection(kind, name string, members ...string) error {
	return c.show(object{
		"@odata.id": c.path, "@odata.type": "#" + kind + "." + kind, "Name": name,
		"Members": refs(members...), "Members@odata.count": len(members),
	})
}

func status(state, health string) object {
	return object{"State": state, "Health": health, "HealthRollup": health}
}

var enabled = object{"State": "Enabled", "Health": "OK"}

func action(path string, more object) object {
	o := object{"target": root + path}
	for k, v := range more {
		o[k] = v
	}
	return o
}
