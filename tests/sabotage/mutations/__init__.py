"""One module a library: MUTATIONS, and nothing imported from the library outside its functions."""
