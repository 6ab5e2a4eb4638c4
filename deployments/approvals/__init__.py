"""Let people who signed in answer promotions that wait for approval, on a page of its own."""
