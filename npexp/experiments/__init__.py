"""`npexp table`: whole tables of recipes and seeds, run, resumed and written up."""
