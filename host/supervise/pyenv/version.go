package pyenv

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// Requirement is the required version of Python: "3.11" (any 3.11), "3.11.7" (that one), or bounds such as
// ">=3.10" and ">=3.10,<3.13".
type Requirement struct {
	text   string
	bounds []bound
}

type bound struct {
	op      string // "==", ">=", ">", "<=", "<", "!="
	version []int
}

// ParseRequirement parses [python] version of plugin.toml.
func ParseRequirement(text string) (Requirement, error) {
	r := Requirement{text: text}
	bad := func() (Requirement, error) {
		return r, plugins.Errorf(plugins.Invalid, "%q is not a Python version", text).
			WithHint(`write "3.11", or bounds like ">=3.10,<3.13"`)
	}
	for _, part := range strings.Split(text, ",") {
		part = strings.TrimSpace(part)
		b := bound{op: "=="}
		for _, op := range []string{"==", ">=", "<=", "!=", ">", "<"} {
			if rest, ok := strings.CutPrefix(part, op); ok {
				b.op, part = op, strings.TrimSpace(rest)
				break
			}
		}
		part = strings.TrimSuffix(part, ".*")
		for _, n := range strings.Split(part, ".") {
			i, err := strconv.Atoi(n)
			if err != nil || i < 0 || len(n) > 4 {
				return bad()
			}
			b.version = append(b.version, i)
		}
		if len(b.version) < 2 || len(b.version) > 3 || b.version[0] != 3 {
			return bad()
		}
		r.bounds = append(r.bounds, b)
	}
	return r, nil
}

func (r Requirement) String() string { return r.text }

// request returns the requirement in the form that uv expects: "3.11", or bounds with commas and without
// spaces.
func (r Requirement) request() string { return strings.ReplaceAll(r.text, " ", "") }

// Allows reports whether a version satisfies the requirement. A bound with two numbers compares two: "3.11"
// and "<=3.11" allow any 3.11.
func (r Requirement) Allows(v Version) bool {
	have := []int{v.Major, v.Minor, v.Micro}
	for _, b := range r.bounds {
		c := 0
		for i, want := range b.version {
			if c == 0 && have[i] != want {
				c = have[i] - want
			}
		}
		ok := false
		switch b.op {
		case "==":
			ok = c == 0
		case "!=":
			ok = c != 0
		case ">=":
			ok = c >= 0
		case "<=":
			ok = c <= 0
		case ">":
			ok = c > 0
		case "<":
			ok = c < 0
		}
		if !ok {
			return false
		}
	}
	return len(r.bounds) > 0
}

// minors returns the minor versions 3.x that may satisfy the requirement, the newest first.
func (r Requirement) minors() []int {
	var out []int
	for minor := 20; minor >= 6; minor-- {
		for _, micro := range []int{0, 1, 5, 30} {
			if r.Allows(Version{3, minor, micro}) || r.exact(minor) {
				out = append(out, minor)
				break
			}
		}
	}
	return out
}

// exact reports whether the requirement is one release of a minor version, e.g. 3.11.7.
func (r Requirement) exact(minor int) bool {
	return len(r.bounds) == 1 && r.bounds[0].op == "==" && r.bounds[0].version[1] == minor
}

// Version of a Python.
type Version struct{ Major, Minor, Micro int }

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }
