package host

import (
	"context"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// forget removes the folder of a run that never began because of what was typed: a task that is not there, a setting with another name, a policy of another env. A
// folder that was there before stays, and so does one that the error points into.
func (r *run) forget(ctx context.Context, err error) {
	if ctx.Err() != nil || r.began || r.last != nil || r.Resume != "" || !mistyped(err, r.folder.Dir()) {
		return
	}
	if gone, err := r.folder.Discard(); err != nil {
		r.Terminal.Warn("the folder of this run, which never began, could not be removed: %v", err)
	} else if gone {
		r.Terminal.Line("run folder removed: the run never began")
	}
}

// mistyped says whether an error is the user's to correct, and can be understood without what lies in a folder.
func mistyped(err error, folder string) bool {
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
