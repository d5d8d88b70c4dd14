package session

import (
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// IsUserError says whether an error is the user's to correct, and can be understood without what lies in a folder.
func IsUserError(err error, folder string) bool {
	if err == nil {
		return false
	}
	e := plugins.AsError(err)
	switch e.Kind {
	case plugins.Invalid, plugins.NotFound, plugins.Unsupported, plugins.Mismatch:
		return !strings.Contains(e.Message+" "+e.Place+" "+e.Hint+" "+e.Detail, folder)
	}
	return false
}
