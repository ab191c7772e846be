package console

import (
	"net/http"

	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/view"
)

func (c *Console) loadLedger(r *http.Request) (content, error) {
	q := r.URL.Query()
	page, err := pageNumber(q)
	if err != nil {
		return content{}, err
	}
	b, err := c.o.View.Ledger(r.Context(), view.BookQuery{Day: q.Get("day"), Show: q.Get("show"), Find: q.Get("find"), Page: page})
	return content{"Ledger", struct {
		view.Book
		Proof act.Proof
	}{b, c.o.Act.Proof()}}, err
}

func (c *Console) loadMachineBook(r *http.Request) (content, error) {
	b, err := c.o.View.MachineBook(r.Context(), r.PathValue("machine"))
	return content{"Ledger of machine " + r.PathValue("machine"), b}, err
}

// certificate gives the newest certificate of a machine's service day as it was signed.
func (c *Console) certificate(w http.ResponseWriter, r *http.Request) {
	cert, err := c.o.View.Certificate(r.Context(), r.PathValue("machine"), r.PathValue("date"))
	if err != nil {
		c.fail(w, r, status(err), err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Disposition", `attachment; filename="certificate.json"`)
	_, _ = w.Write(cert.Body) // a browser that went away
}
